"""`diffprof import`, from the file to what is printed."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from diffprof.cli.app import app
from diffprof.model.report import from_json
from diffprof.scanning.importing import record_trace
from tests.chrome_trace.generate import generate
from tests.chrome_trace.traces import launch, op, write


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.json"
    generate(path, 400_000)
    return path


def run(tmp_path: Path, *args: str) -> Result:
    return CliRunner().invoke(app, ["import", *args, "--traces", str(tmp_path / "runs"), "--quiet"])


def test_a_trace_becomes_a_report(tmp_path: Path, trace: Path) -> None:
    result = run(tmp_path, str(trace), "-v")
    assert result.exit_code == 0, result.output
    assert "SYN001" in result.stdout
    assert "diffusers/schedulers/scheduling_ddim.py:342" in result.stdout
    assert "Device idle" in result.stdout
    assert list((tmp_path / "runs").glob("*/report.json"))


def test_json_on_stdout_is_the_report(tmp_path: Path, trace: Path) -> None:
    result = run(tmp_path, str(trace), "--format", "json")
    report = from_json(result.stdout.encode())
    assert report.recording.target.kind == "trace"
    assert report.recording.gaps
    assert report.recording.timeline is not None
    assert json.loads(result.stdout)["recording"]["device"]["grade"] == "measured"


def test_the_gate_works_on_traces(tmp_path: Path, trace: Path) -> None:
    assert run(tmp_path, str(trace), "--fail-on", "in-loop").exit_code == 1
    assert run(tmp_path, str(trace), "--fail-on", "SYN007").exit_code == 0


def test_a_trace_of_nothing_like_a_pipeline_claims_nothing_about_the_loop(tmp_path: Path) -> None:
    result = run(tmp_path, str(write(tmp_path / "t.json", launch(1, 10, 20, 5))))
    assert result.exit_code == 0
    assert "denoising loop never" not in result.stdout


def test_without_gpu_events_no_idle_time_is_claimed(tmp_path: Path) -> None:
    result = run(tmp_path, str(write(tmp_path / "t.json", [op("aten::mul", 0, 5)])))
    assert result.exit_code == 0
    assert "no GPU events in this trace" in " ".join(result.stdout.split())
    assert "Device idle" not in result.stdout
    assert "device busy" not in result.stdout


@pytest.mark.parametrize("content", ["", "not json", '{"a": 1}', "[]"])
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    result = run(tmp_path, str(path))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error:")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="no /dev/stdin on this system")
@pytest.mark.parametrize("zipped", [False, True])
def test_a_trace_comes_through_a_pipe(tmp_path: Path, trace: Path, zipped: bool) -> None:
    text = gzip.compress(trace.read_bytes()) if zipped else trace.read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "diffprof", "import", "/dev/stdin", "--format", "json"],
        input=text,
        capture_output=True,
        cwd=tmp_path,
        check=True,
    )
    recording = from_json(done.stdout).recording
    assert recording.kernels == record_trace(trace).kernels
    assert recording.trace_file is None
    assert "was read once" in recording.unseen[-1].why


def test_importing_a_trace_loads_no_torch(trace: Path) -> None:
    code = (
        "import sys; from diffprof.scanning.importing import import_trace; import_trace(sys.argv[1]); "
        "print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(trace)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
