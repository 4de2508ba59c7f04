"""A pipeline in a server: times of stages, in threads and tasks; what is slow; nothing left behind."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import diffprof
from diffprof.devices.cpu import CpuDevice
from diffprof.live.requests import Request, StageClock
from diffprof.model.errors import UsageError
from diffprof.model.recording import Grade
from tests.fake_cuda import FakeCuda, installed

SAMPLE = Path(__file__).parents[1] / "guard/sample"


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(SAMPLE))
    sys.modules.pop("painting", None)
    import painting

    return painting.make_painter()


def members(pipe: object) -> dict:
    parts = (pipe, pipe.scheduler, pipe.unet)
    return {id(part): (type(part), dict(vars(part))) for part in parts if part is not pipe.scheduler} | {
        "scheduler": (type(pipe.scheduler), set(vars(pipe.scheduler)))
    }


def test_stages_of_every_second_call(pipe) -> None:
    pipe(num_inference_steps=1)
    before = members(pipe)
    found: list[Request] = []
    with diffprof.watch(pipe, every=2, callback=found.append):
        for _ in range(3):
            assert pipe(num_inference_steps=3).shape == (1, 3, 16, 16)
    pipe(num_inference_steps=2)
    assert members(pipe) == before
    assert [each.number for each in found] == [1, 2, 3]
    assert [len(each.stages) for each in found] == [3, 0, 3]
    steps = found[0].stages
    assert [(stage.name, stage.step) for stage in steps] == [("step", 0), ("step", 1), ("step", 2)]
    assert all(stage.seconds > 0 for stage in steps)
    assert steps[1].start == pytest.approx(steps[0].start + steps[0].seconds)
    assert sum(stage.seconds for stage in steps) < found[0].seconds
    assert found[0].pipeline == "Painter"


def test_exact_times_of_a_call_with_a_clock_of_its_own() -> None:
    moments = iter([0.0, 1.0, 3.0, 4.0, 6.0, 9.0, 10.0, 12.0])
    clock = StageClock(clock=lambda: next(moments))
    clock.enter()  # 1
    clock.leave("encode")  # 3
    clock.loop()  # 4
    clock.stepped()  # 6
    clock.stepped()  # 9
    clock.enter()  # 10
    clock.leave("decode")  # 12
    told = [(stage.name, stage.step, stage.start, stage.seconds) for stage in clock.stages()]
    assert told == [
        ("encode", None, 1.0, 2.0),
        ("step", 0, 4.0, 2.0),
        ("step", 1, 6.0, 3.0),
        ("decode", None, 10.0, 2.0),
    ]


def test_times_of_a_gpu_are_its_own_events() -> None:
    class Event:
        made = 0

        def __init__(self) -> None:
            Event.made += 1
            self.at = Event.made * 100.0

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

        def query(self) -> bool:
            return self.at <= 300.0

    clock = StageClock(event=Event)
    clock.loop()
    clock.stepped()
    assert [stage.seconds for stage in clock.stages()] == [0.1]
    assert clock.over()
    clock.stepped()
    assert not clock.over()


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_a_close_look_times_each_call_and_its_phases(
    pipe, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that the denoiser alone moves: 2 s a step by the CPU's, 0.5 s a step on a GPU's stream."""
    now = [0.0]
    monkeypatch.setattr(CpuDevice, "clock", lambda self: now[0])
    forward = pipe.unet.forward

    with installed(FakeCuda()) as cuda:
        cuda.called = lambda *_: None

        def slow(*args, **kwargs):
            now[0] += 2.0
            cuda.launch(500_000.0, host_us=0.0)
            return forward(*args, **kwargs)

        pipe.unet.forward = slow
        with diffprof.watch(pipe, device=device) as watch:
            pipe(num_inference_steps=3)
            now[0] += 100.0  # between the calls
            pipe(num_inference_steps=1)
    step = 2.0 if device == "cpu" else 0.5
    assert [each.seconds for each in watch.requests] == [3 * step, step]
    told = [(s.name, s.part, s.step, s.start, s.seconds) for s in watch.requests[0].stages if s.seconds]
    assert told == [("denoise", "denoiser", n, n * step, step) for n in range(3)]
    timing = watch.report.recording.timing
    assert timing.grade is Grade.MEASURED
    assert timing.median == sum(each.seconds for each in timing.phases) == 4 * step
    assert {(each.phase, each.part): each.seconds for each in timing.phases}[
        "denoise", "denoiser"
    ] == 4 * step
    shown = " ".join(watch.report.render().split())
    took = "8 s" if device == "cpu" else "2 s"
    assert f"{took} a call of 4 steps (measured, with the time that watching takes)" in shown
    assert f"The denoiser takes {took} of it (100 %)." in shown
    assert "synchronize" not in {row.kind for row in watch.report.recording.syncs}


def test_a_denoiser_that_sleeps_has_cost_that_long(pipe) -> None:
    slept: list[float] = []
    forward = pipe.unet.forward

    def sleepy(*args, **kwargs):
        began = time.perf_counter()
        time.sleep(0.03)
        slept.append(time.perf_counter() - began)
        return forward(*args, **kwargs)

    pipe.unet.forward = sleepy
    with diffprof.watch(pipe, device="cpu") as watch:
        pipe(num_inference_steps=3)
        with pytest.raises(TypeError):
            pipe(num_inference_steps="three")
    one, failed = watch.requests
    assert failed.error == "TypeError"
    steps = [stage.seconds for stage in one.stages if stage.part == "denoiser"]
    assert len(steps) == 3
    assert all(took >= asleep for took, asleep in zip(steps, slept, strict=True))
    assert sum(steps) < one.seconds == pytest.approx(sum(stage.seconds for stage in one.stages))


def test_calls_in_threads_are_told_apart(pipe) -> None:
    """Two calls at once, each held in its loop until the other is there too."""
    found: list[Request] = []
    together = threading.Barrier(2, timeout=30)
    forward = pipe.unet.forward

    def meeting(*args, **kwargs):
        together.wait()
        return forward(*args, **kwargs)

    pipe.unet.forward = meeting
    pipe.scheduler.set_timesteps(8)  # one scheduler for both: neither may come to its end
    pipe.scheduler.set_timesteps = lambda *args, **kwargs: None
    with diffprof.watch(pipe, every=1, callback=found.append), ThreadPoolExecutor(2) as pool:
        pipe.scheduler.timesteps = pipe.scheduler.timesteps[:3]
        for each in [pool.submit(pipe, 3) for _ in range(2)]:
            each.result()
    assert sorted((each.number, [stage.step for stage in each.stages]) for each in found) == [
        (1, [0, 1, 2]),
        (2, [0, 1, 2]),
    ]


def test_an_error_is_told_and_raised(pipe) -> None:
    found: list[Request] = []
    with diffprof.watch(pipe, every=1, callback=found.append), pytest.raises(TypeError):
        pipe(num_inference_steps="three")
    assert [each.error for each in found] == ["TypeError"]


def test_a_sink_that_fails_does_not_fail_the_request(pipe, caplog: pytest.LogCaptureFixture) -> None:
    def broken(request: Request) -> None:
        raise ValueError("no disk")

    with diffprof.watch(pipe, every=1, callback=broken), caplog.at_level(logging.ERROR, "diffprof"):
        pipe(num_inference_steps=1)
    assert "no disk" in caplog.text


def test_asyncio(pipe) -> None:
    found: list[Request] = []

    async def serve() -> None:
        for _ in range(2):
            await asyncio.to_thread(pipe, 2)

    with diffprof.watch(pipe, every=1, callback=found.append):
        asyncio.run(serve())
    assert [len(each.stages) for each in found] == [2, 2]


def test_the_call_after_a_slow_one_is_recorded_once(pipe, tmp_path: Path) -> None:
    found: list[Request] = []
    with diffprof.watch(pipe, every=100, callback=found.append, slow_s=1e-9, traces=tmp_path) as watch:
        for _ in range(3):
            pipe(num_inference_steps=6)
    assert [each.slow for each in found] == [True, True, True]
    assert len(list(tmp_path.rglob("report.json"))) == 1
    report = watch.report
    assert report.recording.target.steps == 3
    (trace,) = tmp_path.rglob("*.json.gz")
    assert trace.stat().st_size < 2**20


def test_a_quantile_is_told_from_the_calls_so_far(pipe) -> None:
    watch = diffprof.watch(pipe, every=1, slow_quantile=0.9, traces=None)
    told = [watch._is_slow(seconds) for seconds in [1.0] * 30 + [1.0, 2.0]]
    watch.close()
    assert told == [False] * 31 + [True]


def test_twice_is_refused_and_so_are_wrong_numbers(pipe) -> None:
    with diffprof.watch(pipe, every=1), pytest.raises(UsageError, match="watched already"):
        diffprof.watch(pipe, every=1)
    with pytest.raises(UsageError, match="every=0"):
        diffprof.watch(pipe, every=0)
    with pytest.raises(UsageError, match="is no quantile"):
        diffprof.watch(pipe, every=1, slow_quantile=99.0)


def test_two_pipelines_with_the_same_classes_are_closed_in_any_order(pipe) -> None:
    import painting

    other = painting.make_painter()
    first, second = diffprof.watch(pipe, every=1), diffprof.watch(other, every=1)
    first.close()
    second.close()
    assert type(pipe.scheduler) is type(other.scheduler)
    assert not hasattr(type(pipe), "_diffprof_follows")


def test_prometheus(pipe) -> None:
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    with diffprof.watch(pipe, every=1, prometheus=registry):
        pipe(num_inference_steps=3)
    value = registry.get_sample_value
    assert value("diffprof_requests_total", {"pipeline": "Painter", "outcome": "ok"}) == 1
    assert value("diffprof_stage_seconds_count", {"pipeline": "Painter", "stage": "step"}) == 3
    assert value("diffprof_request_seconds_count", {"pipeline": "Painter"}) == 1


def test_opentelemetry(pipe) -> None:
    pytest.importorskip("opentelemetry")

    class Span:
        def __init__(self, name: str, start: int) -> None:
            self.name, self.start = name, start

        def end(self, at: int) -> None:
            spans.append((self.name, at - self.start))

    class Tracer:
        def start_span(self, name: str, *, start_time: int, **more: object) -> Span:
            return Span(name, start_time)

    spans: list[tuple[str, int]] = []
    with diffprof.watch(pipe, every=1, opentelemetry=Tracer()):
        pipe(num_inference_steps=2)
    assert [name for name, _ in spans] == ["step 0", "step 1", "Painter"]
    assert spans[0][1] + spans[1][1] <= spans[2][1]


def test_what_is_copied_in_a_call_is_followed_too(pipe) -> None:
    import copy

    found: list[Request] = []
    with diffprof.watch(pipe, every=1, callback=found.append):
        whole = pipe.scheduler
        pipe.scheduler = copy.deepcopy(whole)
        pipe(num_inference_steps=2)
        pipe.scheduler = whole
    assert [len(each.stages) for each in found] == [2]
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_compiled_parts_are_not_compiled_again(pipe) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    pipe.unet.compile(backend=backend, fullgraph=True)
    pipe(num_inference_steps=2)
    before = len(compiled)
    with diffprof.watch(pipe, every=1):
        pipe(num_inference_steps=2)
    pipe(num_inference_steps=2)
    assert len(compiled) == before == 1
