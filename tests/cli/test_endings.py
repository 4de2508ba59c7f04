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

pytestmark = pytest.mark.slow

FACTORY = """
import sys, time
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
    command = [sys.executable, "-m", "diffprof", "scan", "make.py:make", "--device", "sim:a100-80gb"]
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
        out, rest = process.communicate(timeout=120)
    assert process.returncode == 130, said + rest
    assert "error: stopped by Ctrl-C." in rest
    (stored,) = (tmp_path / "traces").iterdir()
    assert f"marked partial, in traces/{stored.name}" in rest
    recording = load_report(stored).recording
    assert recording.partial
    assert recording.failure == "interrupted"
    assert [row.by_step for row in recording.syncs if row.in_loop], "two steps were recorded"
    assert "Partial" in out


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
@pytest.mark.parametrize(("third", "code"), [("pass", 2), ("raise ValueError('no more')", 3)])
def test_a_report_that_can_not_be_stored_is_shown(tmp_path: Path, third: str, code: int) -> None:
    import resource

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    with scan(
        tmp_path, third, preexec_fn=no_room, env={**clean_environment(), "PYTHONDONTWRITEBYTECODE": "1"}
    ) as process:
        out, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    assert "The report could not be stored in traces/" in said
    assert "choose another folder with --traces" in said
    assert "In the denoising loop" in out
    assert not list((tmp_path / "traces").iterdir())
