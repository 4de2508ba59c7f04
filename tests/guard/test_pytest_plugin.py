"""The fixture and the marker, in a project that is tested inside of this process."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffprof
from tests.guard.conftest import Project

pytest_plugins = ["pytester"]
DEVICE = "sim:a100-80gb"


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """What a scan imports stays imported: pytester forgets what is imported inside."""
    diffprof.scan("tests/guard/sample/painting.py:make_painter", device=DEVICE)


@pytest.fixture
def tested(project: Project, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """Runs the project's tests; what they printed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.chdir(project.folder)

    def run(*args: str) -> str:
        sys.modules.pop("painting", None)  # another test's
        result = pytester.runpytest_inprocess(
            "-p", "diffprof.guard.pytest_plugin", "--rootdir", str(project.folder), str(project.folder), *args
        )
        sys.modules.pop("painting", None)
        return result.stdout.str()

    return run


@pytest.mark.slow
def test_a_project_without_waits_passes(tested) -> None:
    assert "2 passed" in tested("-p", "no:cacheprovider", "-p", "no:tmpdir")


@pytest.mark.slow
def test_an_added_wait_fails_both_ways_and_is_named_by_its_line(project: Project, tested) -> None:
    line = project.add_wait()
    out = tested("-k", "painter")
    assert "1 failed" in out
    assert f"painting.py:{line}: SYN001 value-read:" in out
    assert f"> {line} |             if noise.abs().max() > 100:" in out
    assert "  = instead: " in out
    assert "1 wait in the denoising loop: " in out
    (stored,) = (project.folder / ".pytest_cache").rglob("report.json")
    assert f"report: {stored.parent}" in out


def test_the_marker_fails_before_the_test(project: Project, tested) -> None:
    project.replace("        return sample.clamp(-1, 1)", "        return sample.clamp(-1, 1).cpu()")
    project.replace('fail_on="in-loop"', 'fail_on="SYN004"', "test_painting.py")
    out = tested("-k", "sketcher")
    assert "1 failed" in out
    assert "SYN004 device-to-host-copy" in out
    assert "hidden" not in out


@pytest.mark.slow
def test_equal_scans_are_made_once(project: Project, tested) -> None:
    (project.folder / "test_painting.py").write_text(
        """
import painting

def test_equal(diffprof):
    first = diffprof.scan(painting.make_painter, steps=2, device="sim:a100-80gb")
    assert diffprof.scan(painting.make_painter, device="sim:a100-80gb", steps=2) is first
    assert diffprof.scan(painting.make_painter, device="sim:a100-80gb", steps=3) is not first
    assert first.recording.target.steps == 2

def test_a_live_pipeline_may_have_changed(diffprof):
    pipe = painting.make_painter()
    first = diffprof.scan(pipe, steps=2, device="sim:a100-80gb")
    assert diffprof.scan(pipe, steps=2, device="sim:a100-80gb") is not first
"""
    )
    assert "2 passed" in tested()


def test_what_can_not_be_asserted_is_one_error_at_the_line_of_the_test(project: Project, tested) -> None:
    (project.folder / "test_painting.py").write_text(
        "import painting\n\ndef test_it(diffprof):\n"
        "    diffprof.scan(painting.make_painter, device='sim:a100-80gb').assert_fullgraph('unet')\n"
    )
    out = tested()
    assert "test_painting.py:4: No component of painting.py:make_painter was captured." in out
    assert 'Scan with scan(..., analyzers="graph-breaks").' in out
    assert "Traceback" not in out
    assert "diffprof/guard" not in out


@pytest.mark.slow
def test_allowances_of_the_configuration_hold_in_tests(project: Project, tested) -> None:
    project.add_wait()
    (project.folder / "pyproject.toml").write_text(
        '[tool.diffprof]\nallow = [{rule = "SYN001", file = "painting.py", function = "Painter.__call__", '
        'reason = "values above 100 are NaN a step later"}]\n'
    )
    assert "2 passed" in tested()


def test_collecting_imports_no_torch_and_the_entry_point_leads_to_the_plugin() -> None:
    points = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    assert points == {"diffprof": "diffprof.guard.pytest_plugin"}
    program = (
        "import sys, time, pytest\nbefore = time.perf_counter()\nimport diffprof.guard.pytest_plugin\n"
        "assert not {'torch', 'diffusers', 'numpy', 'msgspec', 'click'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.nightly
def test_under_xdist(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    project.add_wait()
    plugins = ["-p", "xdist", "-p", "diffprof.guard.pytest_plugin"]
    command = [sys.executable, "-m", "pytest", *plugins, "-n", "2", str(project.folder)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=project.folder)
    assert "1 failed, 1 passed" in result.stdout, result.stdout + result.stderr
