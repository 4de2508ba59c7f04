from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.analyzers.kernels.probe import annotated_modules, annotated_phases, measure
from diffprof.analyzers.kernels.timing import clean_passes
from diffprof.devices import resolve_device
from diffprof.model.recording import Grade
from diffprof.targets.pipeline import Phase, PhaseTracker


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


def measured(pipe: Any, device: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sections in measure(pipe, pipe, resolve_device(device), **more):
        found.update(sections)
    return found


def test_a_call_on_the_cpu_has_its_operators_as_kernels(tmp_path: Path) -> None:
    pipe = Tiny()
    found = measured(pipe, "cpu", folder=tmp_path, passes=2)
    assert (tmp_path / "trace.json").stat().st_size > 1000
    assert len(found["timing"].seconds) == 2
    assert "timeline" not in found
    rows = found["kernels"]
    products = [row for row in rows if row.op == "aten::addmm"]
    assert sum(row.count for row in products) == 3
    assert {row.phase for row in products} == {"denoise"}
    assert {row.module for row in products} == {"unet.inner"}
    assert {row.phase for row in rows} == {"prepare", "denoise"}
    memory = found["memory"]
    assert memory.weights_bytes == 4 * (8 * 8 + 8)
    assert memory.peak_bytes > memory.weights_bytes
    assert memory.capacity_bytes is None


def test_no_pass_is_begun_that_would_exceed_the_limit() -> None:
    timing = clean_passes(
        lambda: None, lambda: None, warmups=0, passes=9, limit_s=5.0, clock=ticking(0, 2, 10, 12, 20, 22)
    )
    assert timing.seconds == (2.0, 2.0)


def test_one_pass_is_made_however_long_it_takes() -> None:
    timing = clean_passes(lambda: None, lambda: None, warmups=0, limit_s=5.0, clock=ticking(0, 900))
    assert timing.seconds == (900.0,)


def test_nothing_is_left_behind() -> None:
    pipe = Tiny()
    before = torch.nn.Module.__call__
    measured(pipe, "cpu", passes=1)
    assert torch.nn.Module.__call__ is before
    with pytest.raises(RuntimeError), annotated_modules({id(pipe.unet): "unet"}):
        pipe.unet(torch.ones(2, 3), 0)
    assert torch.nn.Module.__call__ is before


def test_compiled_modules_are_annotated_around_not_inside() -> None:
    """Annotations inside would end the graph, or compile it again."""
    pipe = Tiny()
    graphs: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    pipe.unet.compile(backend=count, fullgraph=True)
    pipe()
    compiled = list(graphs)
    with annotated_modules({id(pipe.unet): "unet", id(pipe.unet.inner): "unet.inner"}):
        pipe()
        torch._dynamo.reset()
        pipe()
    assert graphs[: len(compiled)] == compiled
    assert graphs[len(compiled) :] == compiled
    torch._dynamo.reset()


def test_phases_are_told_on_to_whoever_listened() -> None:
    tracker = PhaseTracker()
    with annotated_phases(tracker):
        assert tracker.on_change is not None
        tracker.on_change(Phase("encode"))
        tracker.on_change(Phase("denoise", 0, "denoiser"))
    assert tracker.on_change is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_call_on_cuda_has_a_timeline(tmp_path: Path) -> None:
    device = resolve_device("cuda")
    place = device.torch_device
    pipe = Tiny()
    pipe.unet.to(place)
    unet = pipe.unet
    calls = measure(lambda: unet(torch.ones(2, 8, device=place), 0), pipe, device, folder=tmp_path)
    found = {name: rows for sections in calls for name, rows in sections.items()}
    assert found["timeline"].device_us
    assert found["memory"].peak_bytes > 0
    assert 0 < found["timing"].device_busy <= 1
