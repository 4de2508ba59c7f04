from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.analyzers.kernels.probe import (
    LIMIT_S,
    MOST,
    annotated_modules,
    annotated_phases,
    measure,
    warmups_of,
)
from diffprof.analyzers.kernels.timing import COMPILED_WARMUPS, clean_passes, compiled_frames
from diffprof.devices import resolve_device
from diffprof.model.recording import Doubt, Grade
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


IDLE: dict[str, Any] = {"load": lambda: 0.0, "compiles": lambda: 0}


def test_a_call_that_compiles_is_a_warm_up() -> None:
    """The pipeline compiles in its first and third call: only what comes after these is timed."""
    made: list[int] = []
    timing = clean_passes(
        lambda: made.append(0),
        lambda: None,
        warmups=1,
        passes=2,
        clock=ticking(0.0, 1.0, 10.0, 19.0, 20.0, 21.0),
        compiles=lambda: sum(n <= len(made) for n in (1, 3)),
        load=lambda: None,
    )
    assert timing.seconds == (1.0, 1.0)
    assert (timing.warmups, timing.doubts) == (2, ())


def test_a_call_that_always_compiles_is_timed_with_a_doubt() -> None:
    made: list[int] = []
    timing = clean_passes(
        lambda: made.append(0),
        lambda: None,
        passes=2,
        clock=ticking(*(float(n) for n in range(10))),
        compiles=lambda: len(made),
        load=lambda: 0.0,
    )
    assert timing.seconds == (1.0, 1.0)
    assert (timing.warmups, timing.doubts) == (1 + 3, (Doubt.COMPILED,))


def test_one_pass_is_not_to_be_trusted() -> None:
    timing = clean_passes(lambda: None, lambda: None, limit_s=60.0, clock=ticking(0.0, 70.0), **IDLE)
    assert (timing.seconds, timing.doubts) == ((70.0,), (Doubt.ONE_PASS,))


def test_passes_far_from_each_other_are_made_again_and_doubted() -> None:
    wide, steady = (1.0, 40.0, 2.0, 30.0), (1.0, 1.5, 1.0, 1.0)
    for taken, doubts in ((wide, (Doubt.SPREAD,)), (steady, ())):
        times = [t for n, each in enumerate(taken) for t in (100.0 * n, 100.0 * n + each)]
        timing = clean_passes(lambda: None, lambda: None, passes=3, most=4, clock=ticking(*times), **IDLE)
        assert (timing.seconds, timing.doubts) == (taken, doubts)


@pytest.mark.parametrize(("busy", "doubts"), [(0.0, ()), (0.3, ()), (3.0, (Doubt.LOADED,)), (None, ())])
def test_a_machine_that_others_keep_busy_is_a_doubt(busy: float | None, doubts: tuple[Doubt, ...]) -> None:
    load = None if busy is None else busy * (os.cpu_count() or 1)
    timing = clean_passes(
        lambda: None,
        lambda: None,
        passes=2,
        clock=ticking(0.0, 1.0, 2.0, 3.0),
        compiles=lambda: 0,
        load=lambda: load,
    )
    assert timing.doubts == doubts
    assert timing.load == (None if busy is None else pytest.approx(busy, abs=0.05))


def test_what_dynamo_compiles_is_counted() -> None:
    compiled = torch.compile(lambda x: x + 1, backend="eager")
    before = compiled_frames()
    compiled(torch.ones(2))
    first = compiled_frames()
    compiled(torch.ones(2))
    assert before < first == compiled_frames()


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


def _of_the_model(pipe: Tiny) -> None:
    pipe.unet.compile(backend="eager")


def _of_a_block(pipe: Tiny) -> None:
    pipe.unet.inner = torch.compile(pipe.unet.inner, backend="eager")


def _of_a_method(pipe: Tiny) -> None:
    pipe.unet.forward = torch.compile(pipe.unet.forward, backend="eager")


@pytest.mark.parametrize("compile_it", [_of_the_model, _of_a_block, _of_a_method])
@pytest.mark.parametrize("watched_s", [1.0, 10 * LIMIT_S])
def test_a_compiled_pipeline_is_always_warmed_up(compile_it: Any, watched_s: float) -> None:
    pipe = Tiny()
    compile_it(pipe)
    assert warmups_of(pipe, watched_s) == COMPILED_WARMUPS


def test_an_eager_call_of_minutes_warms_up_the_next() -> None:
    assert [warmups_of(Tiny(), seconds) for seconds in (1.0, 10 * LIMIT_S)] == [1, 0]


def measured(pipe: Any, device: str, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for sections in measure(pipe, pipe, resolve_device(device), **more):
        found.update(sections)
    return found


def test_a_call_on_the_cpu_has_its_operators_as_kernels(tmp_path: Path) -> None:
    pipe = Tiny()
    found = measured(pipe, "cpu", folder=tmp_path, passes=2)
    assert (tmp_path / "trace.json").stat().st_size > 1000
    assert 2 <= len(found["timing"].seconds) <= 2 * MOST
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
