"""What a report names is not run without asking."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.judge import consent
from diffprof.judge.judging import make_report
from diffprof.model.plain import clean
from diffprof.model.report import Report, save_report
from tests import builders
from tests.cli.conftest import Run


@pytest.fixture
def evil(tmp_path: Path) -> Report:
    """Somebody else's run, whose factory would leave a file."""
    file = tmp_path / "elsewhere" / "make.py"
    file.parent.mkdir()
    file.write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n\ndef make(): ...\n")
    return of_factory(file, tmp_path / "elsewhere" / "20260102-030405-make")


def of_factory(file: Path, folder: Path) -> Report:
    recorded = builders.one_of_everything().recording
    target = replace(recorded.target, spec=f"{file}:make", kind="factory", options={}, call={})
    sources = {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    recording = replace(recorded, target=target, sources=sources, device=replace(recorded.device, spec="cpu"))
    return save_report(make_report(recording), folder)


def test_a_run_from_elsewhere_is_refused_where_nobody_can_be_asked(
    evil: Report, run: Run, tmp_path: Path
) -> None:
    result = run("fix", evil.path, "--apply")
    assert result.exit_code == 2
    assert f"The run {evil.path} lies outside of traces: it may be somebody else's." in result.stderr
    assert "runs the code of that file" in result.stderr
    assert "--yes says that it may be run" in result.stderr
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("kind", ["factory", "script"])
def test_a_target_that_changed_after_its_scan_is_not_built_unasked(
    run: Run, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "make.py"
    file.write_text("def make(): ...\n")
    report = of_factory(file, tmp_path / "traces" / "20260102-030405-make")
    if kind == "script":
        target = replace(report.recording.target, spec=str(file), kind="script")
        report = save_report(
            make_report(replace(report.recording, target=target)),
            tmp_path / "traces" / "20260102-030406-make",
        )
    file.write_text(f"open({str(tmp_path / 'RAN')!r}, 'w')\n")
    result = run("fix", report.path, "--apply")
    assert result.exit_code == 2
    assert f"{file} is not the file that was scanned: it has changed." in result.stderr
    assert "--yes says that it may be run" in result.stderr
    assert not (tmp_path / "RAN").exists()


@pytest.mark.nightly
def test_yes_lets_it_run(evil: Report, run: Run, tmp_path: Path) -> None:
    result = run("fix", evil.path, "--apply", "--yes")
    assert (tmp_path / "RAN").exists()
    assert "returned None, which is not a pipeline" in result.stderr


def test_the_plan_is_shown_without_asking(evil: Report, run: Run, tmp_path: Path) -> None:
    assert run("fix", evil.path).exit_code == 0
    assert not (tmp_path / "RAN").exists()


def test_doubts(tmp_path: Path) -> None:
    file = tmp_path / "make.py"
    file.write_text("def make(): ...\n")
    traces = tmp_path / "traces"
    mine = of_factory(file, traces / "20260102-030405-make")
    assert consent.doubts(mine, traces) == ()
    assert consent.doubts(replace(mine, path=None), traces) == (), "it has just been made"
    (elsewhere,) = consent.doubts(mine, tmp_path / "others")
    assert "lies outside of" in elsewhere
    assert consent.doubts(replace(mine, path=str(traces / ".." / "x")), traces), "not by its spelling"
    link = traces / "20260102-030405-link"
    link.symlink_to(tmp_path, target_is_directory=True)
    assert consent.doubts(replace(mine, path=str(link)), traces), "not by a link"
    file.write_text("import os\n")
    (changed,) = consent.doubts(mine, traces)
    assert "is not the file that was scanned" in changed
    unsaid = replace(mine, recording=replace(mine.recording, sources={}))
    (unknown,) = consent.doubts(unsaid, traces)
    assert "does not say what was in" in unknown


def test_a_script_that_changed_is_asked_about(tmp_path: Path) -> None:
    file = tmp_path / "paint.py"
    file.write_text("x = 1\n")
    recorded = builders.one_of_everything().recording
    target = replace(recorded.target, spec=str(file), kind="script", args=("--a", "b"))
    sources = {str(file): hashlib.sha256(b"x = 2\n").hexdigest()}
    report = Report(recording=replace(recorded, target=target, sources=sources))
    (changed,) = consent.doubts(report, tmp_path)
    assert clean(file) in changed
    assert "-- --a b" in consent.what_is_run(report)
    assert "runs that script" in consent.what_is_run(report)
