"""Reading what was recorded needs neither torch nor diffusers: not even installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.chrome_trace.test_waits import download
from tests.chrome_trace.traces import write

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
ABSENT = (
    *("torch", "diffusers", "transformers", "accelerate", "peft", "torchao", "libcst", "PIL"),
    *("tensorboard", "torch_tb_profiler", "psutil", "packaging"),
)
"""What a scan, a fix and TensorBoard need, and reading does not."""

PROGRAM = f"""
import sys
from importlib.machinery import PathFinder

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in {ABSENT!r}
        return None if absent else super().find_spec(name, path, target)

sys.meta_path[:] = [Others if each is PathFinder else each for each in sys.meta_path]
from diffprof.cli.app import app
for args in {{commands}}:
    try:
        app(args)
    except SystemExit as end:
        assert not end.code, (args, end.code)
"""


def run(folder: Path, *commands: list[str]) -> str:
    code = PROGRAM.replace("{commands}", repr(list(commands)))
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_stored_runs_are_shown_and_compared(tmp_path: Path) -> None:
    sample = str(SAMPLES / "sdxl-ddim-a100")
    forms = ("text", "json", "markdown", "github", "sarif", "html")
    shown = run(
        tmp_path,
        *(["show", sample, "--format", form] for form in forms),
        ["show", sample, "-v"],
        ["compare", sample, f"{sample}-fixed"],
        ["fix", sample],
        ["runs", "--traces", str(SAMPLES)],
        ["explain", "SYN002"],
        ["rules"],
        ["gpus"],
        ["docs"],
    )
    assert "Faster: 1.45x as fast" in shown
    assert "SYN002 host-table-device-index" in shown


def test_traces_are_imported(tmp_path: Path) -> None:
    trace = write(tmp_path / "trace.json", download())
    assert "The trace is 121 ms long" in run(tmp_path, ["import", str(trace)])


@pytest.mark.slow
def test_the_viewer_draws(tmp_path: Path) -> None:
    code = (
        PROGRAM.partition("from diffprof.cli.app")[0]
        + f"""
import asyncio
from pathlib import Path
from diffprof.judge.judging import load_judged
from diffprof.views.tui.app import Viewer

async def look():
    folder = Path({str(SAMPLES)!r})
    viewer = Viewer(load_judged(folder / "tiny-sdxl-cpu"), folder)
    async with viewer.run_test(size=(120, 40)) as pilot:
        for tab in "12345678":
            await pilot.press(tab)
            await pilot.pause()
    print("drawn")

asyncio.run(look())
"""
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "drawn\n", done.stderr[-3000:]


@pytest.mark.parametrize("command", [["scan", "tiny-sdxl"], ["ladder", "tiny-sdxl"]])
def test_what_needs_them_says_what_to_install(tmp_path: Path, command: list[str]) -> None:
    code = PROGRAM.replace("{commands}", repr([command]))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "error: torch is not installed." in done.stderr
    assert "pip install diffprof" in done.stderr
    assert "<ExitCode.USAGE: 2>" in done.stderr
