"""Real clocks: on this CPU, and on a CUDA device where there is one."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import torch
from torch.torch_version import TorchVersion

from diffprof.analyzers.quantization.bench import Bench
from diffprof.analyzers.quantization.inventory import EventStopwatch, Inventory, Key, Layer
from diffprof.analyzers.quantization.schemes import schemes_for
from diffprof.analyzers.quantization.timing import Budget, EventRunner, HostRunner, clear_gain
from diffprof.devices.cpu import int8_instructions
from diffprof.recording import SchemeTiming


def has_int8_units() -> bool:
    return bool(int8_instructions())


def one(shape: Key) -> Inventory:
    layer = Layer(
        "unet", "x", torch.nn.Linear(1, 1), shape.in_features, shape.out_features, "linear", False, None
    )
    layer.uses[shape] = 1
    return Inventory([layer], counts=Counter([shape]))


def by_scheme(timings: list[SchemeTiming]) -> dict[str, SchemeTiming]:
    return {timing.scheme: timing for timing in timings}


def test_this_cpu_answers_for_every_scheme() -> None:
    shape = Key(m=64, in_features=128, out_features=128, dtype="float32", bias=True, kind="linear")
    bench = Bench(
        device=torch.device("cpu"),
        runner=HostRunner(time.thread_time),
        budget=Budget(30, time.thread_time),
        schemes=schemes_for("cpu"),
    )
    found = by_scheme(bench.time_all(one(shape), ["eager"])[shape])
    assert set(found) == {scheme.key for scheme in schemes_for("cpu")}
    assert all((timing.median_us or 0) > 0 or timing.why_not for timing in found.values())
    assert "compute capability" in (found["float8-dynamic-row"].why_not or "")


@pytest.mark.slow
@pytest.mark.skipif(has_int8_units(), reason="this CPU is fast in int8")
@pytest.mark.skipif(TorchVersion(torch.__version__) >= (2, 14), reason="torch 2.14 gains without VNNI too")
def test_without_vnni_torchao_s_dynamic_int8_is_never_recommended() -> None:
    shape = Key(m=512, in_features=640, out_features=640, dtype="float32", bias=True, kind="linear")
    bench = Bench(
        device=torch.device("cpu"),
        runner=HostRunner(time.thread_time),
        budget=Budget(60, time.thread_time),
        schemes=schemes_for("cpu"),
    )
    found = by_scheme(bench.time_all(one(shape), ["eager"])[shape])
    assert (found["int8-dynamic"].speedup or 0) < 0.5
    assert not clear_gain(found["int8-dynamic"])


@pytest.mark.slow
@pytest.mark.skipif(not has_int8_units(), reason="this CPU is slow in int8")
def test_with_vnni_dynamic_int8_is_timed_as_faster_for_large_products() -> None:
    shape = Key(m=1024, in_features=1280, out_features=1280, dtype="float32", bias=True, kind="linear")
    bench = Bench(
        device=torch.device("cpu"),
        runner=HostRunner(time.thread_time),
        budget=Budget(60, time.thread_time),
        schemes=schemes_for("cpu"),
    )
    found = by_scheme(bench.time_all(one(shape), ["eager"])[shape])
    assert clear_gain(found["int8-dynamic"]) or clear_gain(found["qint8-dynamic"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_answers_for_every_scheme() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    shape = Key(m=4096, in_features=1280, out_features=5120, dtype="bfloat16", bias=True, kind="linear")
    bench = Bench(device=device, runner=EventRunner(device), budget=Budget(120), schemes=schemes_for("cuda"))
    found = bench.time_all(one(shape), ["eager", "compiled"])[shape]
    assert {(t.scheme, t.mode) for t in found} == {
        (scheme.key, mode) for scheme in schemes_for("cuda") for mode in ("eager", "compiled")
    }
    assert all((timing.median_us or 0) > 0 or timing.why_not for timing in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_time_the_work_between_them() -> None:
    watch = EventStopwatch()
    matrix = torch.randn(4096, 4096, device="cuda")
    mark = watch.start()
    for _ in range(4):
        matrix @ matrix
    assert watch.microseconds(watch.stop(mark)) > 0
