"""How a scan ends when something comes between: real processes, signals and limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from diffprof.model.report import load_report
from tests.cli.conftest import clean_environment

pytestmark = pytest.mark.nightly

FACTORY = """
import os, signal, sys, threading, time
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

class Slow(DDPMScheduler):
    calls = 0
    def step(self, *args, **kwargs):
        self.calls += 1
        if self.calls == 3:
            print("IN THE THIRD STEP", file=sys.stderr, flush=True)
            {third}
        return super().step(*args, **kwargs)

def make():
    unet = UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )
    return DDPMPipeline(unet, Slow()), dict(num_inference_steps=4)
"""


def scan(folder: Path, third: str, **more: object) -> subprocess.Popen[str]:
    (folder / "make.py").write_text(FACTORY.format(third=third))
    return started(folder, "make.py:make", **more)


def started(folder: Path, target: str, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "diffprof", "scan", target, "--device", "sim:a100-80gb"]
    command += ["--fail-on", "SYN001"]
    # Where the tests run in the background of a shell, Ctrl-C is ignored, and a child would inherit that.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        "preexec_fn": heard,
        "env": clean_environment(),
        **more,
    }
    return subprocess.Popen(command, cwd=folder, **options)  # type: ignore[call-overload]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_in_the_loop_keeps_what_was_recorded(tmp_path: Path) -> None:
    with scan(tmp_path, "time.sleep(300)") as process:
        assert process.stderr is not None
        said = ""
        for line in process.stderr:
            said += line
            if "IN THE THIRD STEP" in line:
                break
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=600)
    assert process.returncode == 130, said + rest
    assert "error: stopped by Ctrl-C." in rest
    (stored,) = (tmp_path / "traces").iterdir()
    assert f"marked partial, in traces/{stored.name}" in rest
    recording = load_report(stored).recording
    assert recording.partial
    assert recording.failure == "interrupted"
    assert [row.by_step for row in recording.syncs if row.in_loop], "two steps were recorded"
    assert "Partial" in out


ENDS = {
    "sys.exit": ("sys.exit(0)", 3, "ended the process with sys.exit(0) at make.py:11 in Slow.step"),
    "sys.exit with nothing": ("raise SystemExit", 3, "ended the process with sys.exit(None)"),
    "os._exit": ("os._exit(0)", 3, "ended the process with os._exit(0) at make.py:11 in Slow.step"),
    "os.execvp": ("os.execvp('true', ['true'])", 3, "ended the process with os.execv"),
    "os._exit in a thread": (
        "threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(60)",
        3,
        "ended the process with os._exit(0)",
    ),
    "a BaseException": ("raise BaseException('enough')", 3, "failed at make.py:11"),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", 143, "ended by SIGTERM."),
    "SIGHUP": ("os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)", 129, "ended by SIGHUP."),
}


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("how", ENDS)
def test_a_call_that_is_not_made_to_its_end_never_passes(tmp_path: Path, how: str) -> None:
    third, code, said = ENDS[how]
    with scan(tmp_path, third) as process:
        out, talk = process.communicate(timeout=600)
    assert process.returncode == code, talk
    assert said in talk
    (stored,) = (tmp_path / "traces").iterdir()
    recording = load_report(stored).recording
    assert recording.partial
    assert recording.failure
    assert [row.by_step for row in recording.syncs or () if row.in_loop], "two steps were recorded"
    assert "Partial" in out


SWALLOWS = """
import os, signal
from make import make
pipe, call = make()
try:
    pipe(**call)
except KeyboardInterrupt:
    print("bye")
"""
SCRIPTS = {
    "exits first": ("import sys\nsys.exit(0)\n", 3, "exited with 0 before it called a pipeline"),
    "calls nothing": ("from diffusers import DDPMPipeline\n", 3, "ended without calling a pipeline"),
    "ends the process first": ("import os\nos._exit(0)\n", 3, "called os._exit(0) before it called"),
    "is another program": ("import os\nos.execvp('true', ['true'])\n", 3, "called os.execv"),
    "exits in its call": (SWALLOWS.replace("KeyboardInterrupt", "ValueError"), 3, "sys.exit(0)"),
    "has a handler that exits with 0": (
        "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n" + SWALLOWS,
        3,
        "sys.exit(0)",
    ),
    "exits with 0 when it is over": ("import atexit, os\natexit.register(os._exit, 0)\n" + SWALLOWS, 143, ""),
    "swallows what ends it": (SWALLOWS, 143, "ended by SIGTERM"),
}
TERMINATED = "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("what", SCRIPTS)
def test_a_script_without_a_whole_call_never_passes(tmp_path: Path, what: str) -> None:
    source, code, said = SCRIPTS[what]
    third = "sys.exit(0)" if what == "exits in its call" else TERMINATED
    (tmp_path / "make.py").write_text(FACTORY.format(third=third))
    (tmp_path / "script.py").write_text(source)
    with started(tmp_path, "script.py") as process:
        _, talk = process.communicate(timeout=600)
    assert process.returncode == code, talk
    assert said in talk
    stored = list((tmp_path / "traces").glob("*/report.json"))
    assert len(stored) == ("make" in source), "what was recorded is kept"


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize(("third", "code"), [("pass", 2), ("raise ValueError('no more')", 3)])
def test_a_report_that_can_not_be_stored_is_shown(tmp_path: Path, third: str, code: int) -> None:
    import resource

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    with scan(
        tmp_path, third, preexec_fn=no_room, env={**clean_environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    ) as process:
        out, said = process.communicate(timeout=600)
    assert process.returncode == code, said
    assert "The report could not be stored in traces/" in said
    assert "choose another folder with --traces" in said
    assert "The CPU waits for the GPU" in out
    assert not list((tmp_path / "traces").iterdir())
