"""A CUDA boundary without CUDA: the CPU computes, an invented GPU keeps the time.

Every module without children that is called launches one kernel. Launching takes the host 5 us, the kernel
takes the device 10 us in float32, half of that in half precision, half again where weights are quantized or
the code is compiled. The host runs ahead, and waits where it is told to: so figures are exact. Tensors on the
CPU are those of the device, except the host's copies that snapshots make.
"""

from __future__ import annotations

import gc
import json
import os
import types
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from diffprof.analyzers.quantization.layers import weights_are_quantized
from diffprof.devices import cuda_runtime
from diffprof.devices.cpu import CpuDevice
from diffprof.devices.cuda import SYNC_WARNING, CudaDevice, explicit_waits, sync_warnings
from diffprof.devices.cuda_runtime import CudaRuntime
from diffprof.devices.simulated import Blocking, BlockingKind
from diffprof.devices.storages import Kept

LAUNCH_US = 5.0
KERNEL_US = 10.0
FILL_US = 40.0
TUNING_BYTES = 1 << 30
"""What the first call of compiled code takes beside the pipeline, for tuning its kernels."""

NO_KERNEL = {
    *("view", "_unsafe_view", "as_strided", "as_strided_", "slice", "transpose", "permute", "select", "t"),
    *("expand", "unsqueeze", "squeeze", "narrow", "chunk", "split", "contiguous", "to", "dropout", "detach"),
    *("empty", "empty_strided", "empty_like", "resize_", "set_", "zeros", "resolve_conj", "resolve_neg"),
    *("detach_", "lift_fresh", "item", "_local_scalar_dense", "_nnpack_available"),
}
"""Operators that launch nothing: views, allocations, what only looks."""


def unseen(function: Any) -> Any:
    """A function whose frames are no place in anybody's program."""
    function.__code__ = function.__code__.replace(co_filename="<fake cuda>")
    return function


class FakeEvent:
    """As torch.cuda.Event with timing, recorded. at: microseconds of the device."""

    def __init__(self, cuda: FakeCuda, at: float) -> None:
        self.cuda, self.at = cuda, at

    def query(self) -> bool:
        return self.cuda.host_us >= self.at

    def synchronize(self) -> None:
        self.cuda.host_us = max(self.cuda.host_us, self.at)

    def elapsed_time(self, later: FakeEvent) -> float:
        """Milliseconds."""
        return (later.at - self.at) / 1e3


class FakeCuda(CudaRuntime):
    """Two GPUs of 80 GB. log: what was asked, in order. fails: raises what a launch is to raise."""

    def __init__(self, devices: int = 2) -> None:
        self.devices = devices
        self.index = 0
        self.host_us = 0.0
        self.device_us = [0.0] * devices
        self.peaks = [0] * devices
        self.mode: Any = 0
        self.rate = 1.0
        self.log: list[str] = []
        self.compiles: list[dict[str, Any]] = []
        self.fails: Callable[[torch.nn.Module], None] = lambda module: None
        self.launches = 0
        self.others = [weakref.ref(tensor) for tensor in _tensors()]
        """What the process has already, as of other tests: none of it is on these devices."""

    # --- devices --------------------------------------------------------------------------------------

    def count(self) -> int:
        return self.devices

    def current(self) -> int:
        return self.index

    def torch_device(self, index: int) -> torch.device:
        return torch.device("cpu")

    def properties(self, index: int) -> Any:
        return types.SimpleNamespace(
            name="NVIDIA A100-SXM4-80GB",
            total_memory=80 << 30,
            major=8,
            minor=0,
            multi_processor_count=108,
            L2_cache_size=1 << 12,
        )

    @contextmanager
    def made_current(self, index: int) -> Iterator[None]:
        before, self.index = self.index, index
        try:
            yield
        finally:
            self.index = before

    def has_bf16(self, index: int) -> bool:
        return True

    # --- time -----------------------------------------------------------------------------------------

    def launch(self, device_us: float, host_us: float = LAUNCH_US) -> None:
        """A kernel on the current device, after the host's work for it."""
        self.launches += 1
        self.host_us += host_us
        self.device_us[self.index] = max(self.device_us[self.index], self.host_us) + device_us

    def called(self, module: torch.nn.Module, _: Any = None) -> None:
        """A module begins."""
        if torch.compiler.is_compiling() or next(module.children(), None) is not None:
            return
        self.fails(module)
        first = next(iter(module.parameters()), None)
        half = first is not None and first.dtype in (torch.float16, torch.bfloat16)
        quantized = bool(weights_are_quantized(module))
        self.launch(KERNEL_US * self.rate * (0.5 if half else 1.0) * (0.5 if quantized else 1.0))

    def clock(self) -> float:
        return self.host_us / 1e6

    def synchronize(self, index: int) -> None:
        self.log.append(f"synchronize {index}")
        self.host_us = max(self.host_us, self.device_us[index])

    def event(self, index: int) -> Any:
        return FakeEvent(self, max(self.device_us[index], self.host_us))

    def fill(self, tensor: torch.Tensor) -> None:
        self.launch(FILL_US)

    def activities(self) -> tuple[ProfilerActivity, ...]:
        return (ProfilerActivity.CPU,)

    def export_trace(self, profiler: Any, file: Path) -> None:
        super().export_trace(profiler, file)
        data = json.loads(file.read_text())
        data["deviceProperties"] = [{"id": 0, "name": self.properties(0).name}]
        data["traceEvents"] += kernels_of(data["traceEvents"])
        file.write_text(json.dumps(data))

    # --- memory ---------------------------------------------------------------------------------------

    def reset_peak(self, index: int) -> None:
        self.log.append(f"reset {index}")
        self.peaks[index] = self.allocated_bytes(index)

    def peak_bytes(self, index: int) -> int:
        self._sample(index)
        return self.peaks[index]

    def allocated_bytes(self, index: int) -> int:
        hosts = {id(thing.copy) for thing in gc.get_objects() if type(thing) is Kept}
        others: dict[int, int] = {}
        for ref in self.others:
            if (tensor := ref()) is not None:
                others |= _storage(tensor)
        sizes: dict[int, int] = {}
        for tensor in _tensors():
            if id(tensor) not in hosts:
                sizes |= _storage(tensor)
        return sum(size for address, size in sizes.items() if address not in others)

    def free_bytes(self, index: int) -> int:
        return self.properties(index).total_memory - self.allocated_bytes(index)

    def release_cache(self) -> None:
        self.log.append("release")

    def _sample(self, index: int) -> None:
        self.peaks[index] = max(self.peaks[index], self.allocated_bytes(index))

    # --- waits ----------------------------------------------------------------------------------------

    def sync_debug_mode(self) -> Any:
        return self.mode

    def set_sync_debug_mode(self, mode: Any) -> None:
        self.mode = mode

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type != "cpu"

    @unseen
    def warned(self, event: Blocking) -> None:
        """PyTorch's own warning, as the sync debug mode emits it."""
        if self.mode == "warn" and event.kind != BlockingKind.STAGED_COPY:
            warnings.warn(f"{SYNC_WARNING} (Triggered internally at CUDAFunctions.cpp:1)", stacklevel=2)

    # --- compiling ------------------------------------------------------------------------------------

    def compile(self, model: Any = None, **options: Any) -> Any:
        """Stands in for torch.compile: the same code, at half the time a kernel."""
        self.compiles.append(options)
        first = True

        def compiled(*args: Any, **kwargs: Any) -> Any:
            nonlocal first
            if first:
                self.peaks[self.index] += TUNING_BYTES
            first = False
            before, self.rate = self.rate, 0.5
            try:
                return model(*args, **kwargs)
            finally:
                self.rate = before

        return compiled


def _tensors() -> list[torch.Tensor]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]


def _storage(tensor: torch.Tensor) -> dict[int, int]:
    """Address -> bytes of a plain tensor on the CPU."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) or tensor.device.type != "cpu":
        return {}
    if tensor.layout is not torch.strided:
        return {}
    storage = tensor.untyped_storage()
    return {storage.data_ptr(): storage.nbytes()}


def kernels_of(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A launch and a kernel of 10 us for each operator that calls no other and is no view."""
    ops = sorted(
        (e for e in events if e.get("ph") == "X" and e.get("cat") == "cpu_op"),
        key=lambda e: (e["tid"], e["ts"], -e["dur"]),
    )
    found: list[dict[str, Any]] = []
    end = 0.0
    for number, (op, following) in enumerate(zip(ops, [*ops[1:], None], strict=True), 1):
        inner = following is not None and following["tid"] == op["tid"]
        if inner and following["ts"] + following["dur"] <= op["ts"] + op["dur"]:  # type: ignore[index]
            continue
        if op["name"].removeprefix("aten::") in NO_KERNEL:
            continue
        begin = max(end, op["ts"] + LAUNCH_US)
        end = begin + KERNEL_US
        link = {"correlation": number, "External id": op["args"].get("External id", 0)}
        runtime = {"ph": "X", "cat": "cuda_runtime", "name": "cudaLaunchKernel", "ts": op["ts"]}
        found.append(
            {**runtime, "pid": op["pid"], "tid": op["tid"], "dur": min(op["dur"], 1.0), "args": link}
        )
        kernel = {"ph": "X", "cat": "kernel", "name": f"fake_{op['name'].removeprefix('aten::')}_kernel"}
        where = {"pid": 0, "tid": 7, "ts": begin, "dur": KERNEL_US}
        found.append({**kernel, **where, "args": {**link, "device": 0, "stream": 7, "context": 1}})
        flow = {"cat": "ac2g", "name": "ac2g", "id": number}
        found.append({**flow, "ph": "s", "pid": op["pid"], "tid": op["tid"], "ts": op["ts"]})
        found.append({**flow, "ph": "f", "bp": "e", "pid": 0, "tid": 7, "ts": begin})
    return found


@contextmanager
def installed(cuda: FakeCuda) -> Iterator[FakeCuda]:
    """The process has these CUDA devices while the context is open."""
    from diffprof.model.pipeline import replaced

    pid = os.getpid()

    def launch(module: torch.nn.Module, given: Any) -> None:
        if os.getpid() == pid:
            cuda.called(module)

    @contextmanager
    def observed(device: CudaDevice, observer: Any, pipe: Any) -> Iterator[None]:
        """The pipeline stands on a simulated GPU with its values, so that each wait is known."""
        stand = CpuDevice()
        place = cuda.torch_device
        tell = observer.blocking

        @unseen
        def loud(event: Blocking) -> None:
            tell(event)
            for _ in range(event.waits):
                cuda.warned(event)

        heard = sync_warnings(observer.witness) if hasattr(observer, "witness") else nullcontext()
        with (
            explicit_waits(observer),
            heard,
            replaced(observer, "blocking", loud),
            stand.observed(observer, pipe),
        ):
            cuda.torch_device = lambda index: stand.torch_device  # type: ignore[method-assign]
            try:
                yield
            finally:
                cuda.torch_device = place  # type: ignore[method-assign]

    hook = torch.nn.modules.module.register_module_forward_pre_hook(launch)
    with (
        replaced(cuda_runtime, "RUNTIME", cuda),
        replaced(CudaDevice, "observed", observed),
        replaced(torch, "compile", cuda.compile),
    ):
        try:
            yield cuda
        finally:
            hook.remove()
