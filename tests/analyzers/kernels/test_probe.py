from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.analyzers.kernels.probe import annotated_modules, annotated_phases, measure
from diffprof.analyzers.kernels.timing import clean_passes, synchronizer
from diffprof.pipeline import Phase, PhaseTracker
from diffprof.recording import Grade


def ticking(*seconds: float) -> Any:
    """A clock that shows these times."""
    times: Iterator[float] = iter(seconds)
    return lambda: next(times)


def test_clean_passes_time_each_call_between_two_synchronizes() -> None:
    log: list[str] = []
    timing = clean_passes(
        lambda: log.append("call"),
        lambda: log.append("sync"),
        passes=3,
        clock=ticking(0.0, 1.0, 10.0, 12.0, 20.0, 23.0),
    )
    assert log == ["call", *["sync", "call", "sync"] * 3]
    assert timing.seconds == (1.0, 2.0, 3.0)
    assert (timing.median, timing.spread, timing.grade) == (2.0, 0.5, Grade.MEASURED)


def test_one_pass_has_no_spread() -> None:
    timing = clean_passes(lambda: None, lambda: None, warmups=0, passes=1, clock=ticking(0.0, 1.0))
    assert timing.spread is None


class Tiny:
    """A pipeline of one denoiser and a scheduler: what the tracker needs to follow it."""

    def __init__(self) -> None:
        class Denoiser(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = torch.nn.Linear(8, 8)

            def forward(self, sample: torch.Tensor, timestep: int) -> torch.Tensor:
                return self.inner(sample)

        class Scheduler:
            def set_timesteps(self, count: int) -> None:
                self.count = count

            def step(self, noise: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
                return sample - 0.1 * noise

        self.unet, self.scheduler = Denoiser(), Scheduler()
        self.components = {"unet": self.unet, "scheduler": self.scheduler}

    @torch.no_grad()
    def __call__(self, steps: int = 3) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        x = torch.ones(2, 8)
        for i in range(steps):
            x = self.scheduler.step(self.unet(x, i), x)
        return x


def test_a_call_on_the_cpu_has_its_operators_as_kernels(tmp_path: Path) -> None:
    pipe = Tiny()
    found = measure(pipe, pipe, torch.device("cpu"), folder=tmp_path, passes=2)
    assert (tmp_path / found["trace_file"]).stat().st_size > 1000
    assert len(found["timing"].seconds) == 2
    assert "timeline" not in found
    rows = found["kernels"]
    products = [row for row in rows if row.op == "aten::addmm"]
    assert sum(row.count for row in products) == 3
    assert {row.phase for row in products} == {"denoise"}
    assert {row.module for row in products} == {"unet.inner"}
    assert found["memory"] is None  # the device's memory; the CPU's is not a limit that matters here


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    from torch.nn.modules import module as hooks

    pipe = Tiny()
    before = dict(hooks._global_forward_pre_hooks), dict(hooks._global_forward_hooks)
    measure(pipe, pipe, torch.device("cpu"), passes=1)
    assert (dict(hooks._global_forward_pre_hooks), dict(hooks._global_forward_hooks)) == before
    with pytest.raises(RuntimeError), annotated_modules({id(pipe.unet): "unet"}):
        pipe.unet(torch.ones(2, 3), 0)
    assert (dict(hooks._global_forward_pre_hooks), dict(hooks._global_forward_hooks)) == before


def test_phases_are_told_on_to_whoever_listened() -> None:
    tracker = PhaseTracker()
    with annotated_phases(tracker):
        assert tracker.on_change is not None
        tracker.on_change(Phase("encode"))
        tracker.on_change(Phase("denoise", 0, "denoiser"))
    assert tracker.on_change is None


def test_the_cpu_needs_no_synchronizing() -> None:
    assert synchronizer(torch.device("cpu"))() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_call_on_cuda_has_a_timeline(tmp_path: Path) -> None:
    device = torch.device("cuda")
    pipe = Tiny()
    pipe.unet.to(device)
    unet = pipe.unet
    found = measure(lambda: unet(torch.ones(2, 8, device=device), 0), pipe, device, folder=tmp_path)
    assert found["timeline"].device_us
    assert found["memory"].peak_bytes > 0
    assert 0 < found["timing"].device_busy <= 1
