"""Ctrl-C while a trace is read: a real signal to a real process, which waits at a known place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from diffprof.model.recording import Recording
from diffprof.model.report import load_report
from diffprof.scanning.importing import record_trace
from diffprof.views.verdict import verdict
from tests.chrome_trace.generate import generate
from tests.cli.conftest import Run, run  # noqa: F401

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")

WAITS_AROUND_EACH_CHUNK = """
import sys
from diffprof.chrome_trace import reader, stream
from diffprof.cli import main

stream.CHUNK_BYTES = 200_000
add = reader._Builder.add

def wait():
    print("WAITING", file=sys.stderr, flush=True)
    sys.stdin.readline()

def added(builder, events):
    wait()
    add(builder, events)
    wait()

reader._Builder.add = added
main()
"""


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "t.json"
    generate(path, 2_000_000)
    return path


@contextmanager
def importing(trace: Path, code: str = WAITS_AROUND_EACH_CHUNK) -> Iterator[subprocess.Popen[str]]:
    """`diffprof import`, which waits for a line before and after each chunk of events, or as `code` says."""
    with subprocess.Popen(
        [sys.executable, "-c", code, "import", trace.name],
        cwd=trace.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a shell, Ctrl-C is ignored, and a child would inherit that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    ) as process:
        yield process


def wait(process: subprocess.Popen[str]) -> None:
    """Until it waits."""
    assert process.stderr is not None
    assert process.stderr.readline() == "WAITING\n"


def go_on(process: subprocess.Popen[str]) -> None:
    """Let it go on to where it waits next. A signal that was sent before is heard by then."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    wait(process)


def test_what_was_read_is_stored_and_says_that_it_is_partial(trace: Path) -> None:
    with importing(trace) as process:
        wait(process)
        go_on(process)
        go_on(process)
        process.send_signal(signal.SIGINT)
        go_on(process)
        out, said = process.communicate("\n", timeout=120)
    (folder,) = (trace.parent / "traces").iterdir()
    assert process.returncode == 130, said
    assert said.splitlines() == [
        f"What was recorded until then is stored, marked partial, in traces/{folder.name}",
        "error: stopped by Ctrl-C.",
    ]
    assert "Partial" in out
    report = load_report(folder)
    assert (report.recording.partial, report.recording.failure) == (True, "interrupted")
    assert verdict(report).next == "Import it again for the whole; what was read until then is below."
    assert 0 < work(report.recording) < work(record_trace(trace))


def work(recording: Recording) -> int:
    return sum(row.count for row in recording.kernels or ())


WAITS_BEFORE_THE_REPORT = """
import sys
from diffprof.cli import main
from diffprof.scanning import storing

def wait(*args, **more):
    print("WAITING", file=sys.stderr, flush=True)
    sys.stdin.readline()

storing.save_report = wait
main()
"""


@pytest.mark.parametrize(
    "code", [WAITS_AROUND_EACH_CHUNK, WAITS_BEFORE_THE_REPORT], ids=["reading", "storing"]
)
def test_one_that_is_killed_leaves_nothing_that_looks_like_a_run(
    trace: Path,
    run: Run,  # noqa: F811
    code: str,
) -> None:
    with importing(trace, code) as process:
        wait(process)
        process.kill()
        process.communicate(timeout=120)
    traces = trace.parent / "traces"
    left = list(traces.iterdir()) if traces.exists() else []
    assert len(left) == (code == WAITS_BEFORE_THE_REPORT)
    assert not [file for folder in left for file in folder.glob("report.json*")]
    listed = run("runs")
    for folder in left:
        assert f"traces/{folder.name} holds no report: a command that wrote it was ended." in listed.stderr
        assert folder.name not in listed.stdout
        assert f"removed traces/{folder.name}" in run("runs", "--clean").stderr
    assert not traces.exists() or not list(traces.iterdir())


def test_a_second_one_ends_it_at_once(trace: Path) -> None:
    with importing(trace) as process:
        wait(process)
        process.send_signal(signal.SIGINT)
        go_on(process)
        process.send_signal(signal.SIGINT)
        out, said = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert said == "error: stopped by Ctrl-C.\n"
    assert not (trace.parent / "traces").exists()
