"""`diffprof fit` stores its recipes; `diffprof fix` checks the code of one and writes it."""

from __future__ import annotations

import os
import re
import runpy
import signal
import time
from pathlib import Path

import msgspec
import pytest
import torch

from diffprof.corpus import CASES
from diffprof.devices.simulated import is_simulated
from diffprof.model.fitting import FitRow, Fitted, load_fit, save_fit
from diffprof.scanning import fitting
from diffprof.targets.redirect import cuda_redirect
from diffprof.tuning.fit_checks import _WithValues
from tests.cli.conftest import Run

GOOD = 'def optimize(pipe):\n    pipe.to("cuda")\n    pipe.vae.enable_slicing()\n    return pipe\n'
BAD = "def optimize(pipe):\n    pipe.no_such_thing()\n"


def row(code: str, seconds: float) -> FitRow:
    return FitRow(recipe=(), seconds=seconds, gpu_gib=1.0, host_gib=0.0, fits=True, frontier=True, code=code)


@pytest.fixture
def fitted(run: Run, tmp_path: Path) -> Path:
    """A stored fit whose fastest recipe fails."""
    folder = tmp_path / "traces" / "20260102-030405-tiny-sd15-fit"
    folder.mkdir(parents=True)
    rows = (row(BAD, 1.0), row(GOOD, 2.0))
    found = Fitted(
        target="tiny-sd15",
        device="rtx4090",
        gpu="NVIDIA GeForce RTX 4090",
        limit_gib=24.0,
        rows=rows,
        chosen=rows[0],
        options={"pairs": (), "no_weights": False, "steps": 2},
    )
    save_fit(found, folder)
    return folder


def runs_on_the_tiny_form(file: Path) -> None:
    """What it compiles runs eagerly: Dynamo can't trace a simulated GPU with values."""
    device, eagerly = _WithValues("rtx4090"), torch.compiler.set_stance("force_eager")
    with device.active() as place, cuda_redirect(device), eagerly, torch.no_grad():
        case = CASES["sd15"].build()
        case.pipe = runpy.run_path(str(file))["optimize"](case.pipe)
        assert all(torch.isfinite(each).all() for each in case.call(place))
        assert all(map(is_simulated, case.pipe.unet.parameters()))


@pytest.mark.parametrize("command", [("fit", "tiny-sd15", "--write"), ("export", "tiny-sd15")])
def test_a_file_that_can_not_be_written_is_refused_before_anything_runs(
    run: Run, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run(*command, tmp_path / "no" / "such.file")
    assert refused.exit_code == 2
    assert f"There is no folder {tmp_path / 'no'}." in " ".join(refused.stderr.split())
    monkeypatch.setattr(os, "access", lambda *asked: False)
    assert "can't be written to" in " ".join(run(*command, tmp_path / "such.file").stderr.split())
    assert not (tmp_path / "traces").exists()


@pytest.mark.slow
def test_fix_checks_the_recipe_that_is_taken_and_writes_it(fitted: Path, run: Run) -> None:
    shown = run("fix", fitted)
    assert shown.exit_code == 0
    assert "no_such_thing" in shown.stdout
    assert "--apply checks the code" in shown.stderr
    assert run("show", fitted).stdout == shown.stdout
    assert "fit" in run("runs").stdout
    applied = run("fix", fitted, "--apply", "-q")
    assert applied.exit_code == 0, applied.stderr
    found = load_fit(fitted)
    assert found is not None
    assert [each.check.status for each in found.rows if each.check] == ["failed", "checked"]
    assert found.chosen == found.rows[1]
    assert "has no attribute 'no_such_thing'" in applied.stdout
    runs_on_the_tiny_form(fitted / "optimized.py")


@pytest.mark.slow
def test_fix_takes_the_fastest_recipe_with_what_is_selected(fitted: Path, run: Run) -> None:
    found = load_fit(fitted)
    assert found is not None
    steps = [("offload:model", "compile:denoiser"), ("offload:leaf",)]
    rows = [
        msgspec.structs.replace(each, recipe=recipe, frontier=False)
        for each, recipe in zip(found.rows, steps, strict=True)
    ]
    save_fit(msgspec.structs.replace(found, rows=tuple(rows), chosen=rows[0]), fitted)
    for chosen in (("--select", "leaves"), ("--ignore", "compile")):
        shown = run("fix", fitted, *chosen)
        assert "enable_slicing" in shown.stdout
        assert "*  group offload, leaves" in shown.stdout
    refused = run("fix", fitted, "--select", "leaves,compile", "--apply")
    assert refused.exit_code == 2
    assert "none is as --select and --ignore ask" in refused.stderr
    applied = run("fix", fitted, "--select", "leaves", "--apply", "-q")
    assert applied.exit_code == 0, applied.stderr
    assert "enable_slicing" in (fitted / "optimized.py").read_text()


def test_a_fit_from_elsewhere_runs_no_code_unasked(fitted: Path, run: Run, tmp_path: Path) -> None:
    other = fitted.rename(tmp_path / "sent")
    refused = run("fix", other, "--apply")
    assert refused.exit_code == 2
    assert "may be somebody else's" in refused.stderr
    assert not (other / "optimized.py").exists()


@pytest.mark.nightly
def test_a_fit_is_stored_checked_and_written(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "fitted.py"
    done = run("fit", "tiny-sd15", "--steps", "2", "-q", "--write", file)
    assert done.exit_code == 0, done.stderr
    runs_on_the_tiny_form(file)
    (folder,) = (tmp_path / "traces").iterdir()
    found = load_fit(folder)
    assert found is not None
    assert all(each.check is not None for each in found.rows if each.frontier)
    told = re.search(r"diffprof (fix --apply \S+)", run("fit", "tiny-sd15", "--steps", "2", "-q").stderr)
    assert told
    assert run(*told[1].split()).exit_code == 0


@pytest.mark.parametrize(
    ("options", "what", "hint"),
    [
        (("--device", "rtx9999"), "rtx9999", "Did you mean"),
        (("--memory", "0"), "fits nothing", "16GiB"),
        (("--memory", "much"), "--memory 'much' is no size", "16GiB"),
        (("--host-memory", "-1"), "is no size", "16GiB"),
        (("--dtype", "float7"), "float7", ""),
        (("--set", "num_images_per_prompt"), "num_images_per_prompt", ""),
    ],
)
def test_a_request_that_can_not_be_carried_out_is_one_error(
    run: Run, options: tuple[str, ...], what: str, hint: str
) -> None:
    result = run("fit", "tiny-sd15", "-q", *options)
    assert result.exit_code == 2, result.output
    assert what in result.stderr
    assert hint in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


RAISES = """
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

class Raises(DDPMPipeline):
    def __call__(self, *args, **kwargs):
        raise ValueError("no such prompt")

def make():
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    unet = UNet2DModel(sample_size=8, block_out_channels=(8,), norm_num_groups=4, **blocks)
    return Raises(unet, DDPMScheduler()), dict(num_inference_steps=4)
"""


@pytest.mark.parametrize(
    "command", [("fit", "-q"), ("predict", "-q"), ("export", "memory.pickle")], ids=lambda each: each[0]
)
def test_a_pipeline_that_raises_is_the_targets_error(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Every command that watches one call on the simulated GPU says where the target failed."""
    (tmp_path / "bad.py").write_text(RAISES)
    name, *options = command
    result = run(name, "bad.py:make", *options)
    assert result.exit_code == 3, result.stderr
    assert "bad.py:make failed at bad.py:6 in Raises.__call__: ValueError: no such prompt" in result.stderr
    assert "--debug shows the whole traceback" in result.stderr


@pytest.mark.slow
def test_ctrl_c_ends_a_fit(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def interrupted(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr(fitting, "_watched", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    result = run("fit", "tiny-sd15", "--steps", "2", "-q")
    assert (result.exit_code, result.stdout) == (130, "")
    assert "stopped by Ctrl-C" in result.stderr
    assert not (tmp_path / "traces").exists()
