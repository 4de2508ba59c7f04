"""The CPU as a place to run a target: for real, with a simulated GPU beside it to tell what would block."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffprof.devices.borrow import borrowed
from diffprof.devices.simulated import Observer, place, simulated_gpu
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import DeviceInfo, Grade

_INT8 = {
    "amx_int8": "AMX-INT8",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni_int8": "AVX-VNNI-INT8",
    "avx_vnni": "AVX-VNNI",
}


_LIMITS = (
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"),
    *("FBGEMM_ENABLE_INSTRUCTIONS", "FBGEMM_NO_ASMJIT", "MKL_ENABLE_INSTRUCTIONS"),
)
"""Variables that keep PyTorch's libraries from using what the CPU has."""

_WITHOUT_INT8 = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}
"""Of oneDNN's limits ("CPU Dispatcher Control" in its developer guide), those below the first of these."""


def int8_instructions() -> tuple[str, ...]:
    """Instructions of this CPU that multiply 8-bit integers and add up in 32 bits, as far as PyTorch may use
    them (see `int8_unused`). Without, its INT8 matmul has no fast path: `torch._int_mm` asks for AVX512-VNNI
    and oneDNN, and multiplies number by number else (aten/src/ATen/native/LinearAlgebra.cpp,
    `_int_mm_out_cpu`)."""
    return () if int8_unused() else _int8_of_the_cpu()


def int8_unused() -> str | None:
    """What keeps PyTorch from the instructions that this CPU has for INT8, if something does."""
    if not _int8_of_the_cpu():
        return None
    if not torch._C._get_mkldnn_enabled():
        return "torch.backends.mkldnn is switched off"
    named = next((name for name in _LIMITS[:2] if os.environ.get(name)), None)
    if named and os.environ[named].upper() in _WITHOUT_INT8:
        return f"{named}={os.environ[named]}"
    return None


def _int8_of_the_cpu() -> tuple[str, ...]:
    found = torch.cpu.get_capabilities()
    return tuple(name for key, name in _INT8.items() if found.get(key))


def _limits() -> dict[str, str]:
    """What holds PyTorch's libraries back in this process; empty as a rule."""
    found = {name: os.environ[name] for name in _LIMITS if os.environ.get(name)}
    if not torch._C._get_mkldnn_enabled():
        found["torch.backends.mkldnn"] = "off"
    return found


class CpuDevice:
    """`cpu`. Values are real; waits are those of the same run on a simulated GPU with known values."""

    kind = "cpu"
    gpu = None
    spec = "cpu"
    grade = Grade.MEASURED
    wants_values = True

    def __init__(self) -> None:
        self._torch_device = torch.device("cpu")

    @property
    def torch_device(self) -> torch.device:
        """The CPU, and the simulated GPU beside it while a call is observed there."""
        return self._torch_device

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            spec=self.spec,
            kind=self.kind,
            name=_processor(),
            grade=self.grade,
            details={
                "threads": torch.get_num_threads(),
                "capability": torch.backends.cpu.get_cpu_capability(),
                "int8_instructions": int8_instructions(),
                "int8_unused": int8_unused(),
                "limits": _limits(),
            },
        )

    @contextmanager
    def active(self) -> Iterator[torch.device]:
        yield self.torch_device

    def place(self, thing: Pipeline | torch.nn.Module) -> None:
        if hasattr(thing, "to"):
            thing.to("cpu")

    def clock(self) -> float:
        return time.perf_counter()

    def synchronize(self) -> None:
        """Nothing: it works in step with Python."""

    @property
    def allocator(self) -> None:
        return None

    @contextmanager
    def observed(self, observer: Observer, pipe: Pipeline) -> Iterator[None]:
        """The pipeline stands on a simulated GPU with its real values while the context is open."""
        with simulated_gpu(observer) as simulated, borrowed(pipe):
            place(pipe, values="known")
            self._torch_device = simulated
            try:
                yield
            finally:
                self._torch_device = torch.device("cpu")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
