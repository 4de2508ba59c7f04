"""Real clocks: on this CPU, and on a CUDA device where there is one."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from diffprof.analyzers.quantization.bench import Bench
from diffprof.analyzers.quantization.cache import machine
from diffprof.analyzers.quantization.inventory import EventStopwatch, Inventory, Key, Layer
from diffprof.analyzers.quantization.schemes import schemes_for
from diffprof.analyzers.quantization.timing import Budget, clear_gain, clear_loss
from diffprof.devices.cpu import CpuDevice, int8_instructions, int8_unused
from diffprof.devices.stopwatches import EventRunner, HostRunner
from diffprof.model.recording import SchemeTiming
from diffprof.model.report import load_report
from diffprof.views.quantization import render_quantization


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


PLAIN = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
}
"""What keeps PyTorch's libraries to AVX2."""

FACTORY = """
import torch
from torch import nn

# Without oneDNN `torch._int_mm` takes the road that it takes on a CPU without AVX512-VNNI.
torch.backends.mkldnn.set_flags(False)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_q, self.up = nn.Linear(640, 640), nn.Linear(640, 1280)

    def forward(self, x):
        return self.up(self.to_q(x))


class Pipe:
    def __init__(self, unet):
        self.components = {"unet": unet}

    @torch.no_grad()
    def __call__(self, x):
        return self.components["unet"](x)


def make():
    torch.manual_seed(0)
    return Pipe(Model()), {"x": torch.randn(512, 640)}
"""


@pytest.mark.nightly  # it times layers: other tests beside it disturb it
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs a CPU with AVX2")
@pytest.mark.skipif(TorchVersion(torch.__version__) >= (2, 14), reason="torch 2.14 gains without VNNI too")
def test_without_vnni_torchao_s_dynamic_int8_is_never_recommended(tmp_path: Path) -> None:
    """For real, with this CPU held to AVX2: 40 times as long as float32, qint8 a half to two thirds of it."""
    file = tmp_path / "wide.py"
    file.write_text(FACTORY)
    command = [
        *(sys.executable, "-m", "diffprof", "scan", f"{file}:make", "--device", "cpu"),
        *("--analyzers", "quantization", "--budget", "120", "--no-cache", "--quiet", "--format", "json"),
    ]
    environment = {**os.environ, **PLAIN, "DIFFPROF_TRACES": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    report = load_report(tmp_path / done.stderr.split()[-1])
    recording = report.recording
    rows = recording.linears or ()
    assert {(row.m, row.in_features, row.out_features) for row in rows} == {(512, 640, 640), (512, 640, 1280)}
    for row in rows:
        timings = by_scheme(list(row.timings))
        dynamic = timings["int8-dynamic"]
        assert clear_loss(dynamic)
        assert (dynamic.speedup or 1) < 1 / 5
        assert clear_gain(timings["qint8-dynamic"])
        assert (timings["qint8-dynamic"].speedup or 0) > 1.2
        assert (row.scheme, row.worth_it) == ("qint8-dynamic", True)
    assert recording.quantization is not None
    assert {s.scheme for s in recording.quantization.selections} == {"qint8-dynamic"}
    assert recording.device.details["limits"]["torch.backends.mkldnn"] == "off"
    text = render_quantization(recording, "text", width=200)
    assert "has no fast path" in text
    assert "int8-dynamic is" not in text.replace("qint8-dynamic is", "")


def test_a_process_that_is_held_back_has_timings_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def facts() -> dict[str, object]:
        return CpuDevice().info().details

    usual = facts()
    monkeypatch.setenv("FBGEMM_ENABLE_INSTRUCTIONS", "AVX2")
    narrower = facts()
    torch._C._set_mkldnn_enabled(False)
    try:
        without = facts()
        assert int8_instructions() == ()
        assert (int8_unused() is not None) == bool(usual["int8_instructions"])
    finally:
        torch._C._set_mkldnn_enabled(True)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx2")
    assert int8_instructions() == ()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert int8_instructions() == usual["int8_instructions"]
    keys = {machine("cpu", details) for details in (usual, narrower, without, facts())}
    assert len(keys) == 4


@pytest.mark.nightly
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
    bench = Bench(
        device=device, runner=EventRunner(device.index), budget=Budget(120), schemes=schemes_for("cuda")
    )
    found = bench.time_all(one(shape), ["eager", "compiled"])[shape]
    assert {(t.scheme, t.mode) for t in found} == {
        (scheme.key, mode) for scheme in schemes_for("cuda") for mode in ("eager", "compiled")
    }
    assert all((timing.median_us or 0) > 0 or timing.why_not for timing in found)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_time_the_work_between_them() -> None:
    watch = EventStopwatch(torch.cuda.current_device())
    matrix = torch.randn(4096, 4096, device="cuda")
    mark = watch.start()
    for _ in range(4):
        matrix @ matrix
    assert watch.microseconds(watch.stop(mark)) > 0
