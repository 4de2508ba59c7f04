"""Where a target runs: a CUDA device, the CPU, or a simulated GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import DeviceInfo, Grade

if TYPE_CHECKING:
    import torch

    from diffprof.devices.simulated import Observer
    from diffprof.gpu.specs import GpuSpec

DEFAULT_SIMULATED = "sim:a100-80gb"


class Allocator(Protocol):
    """Memory of a device, bytes."""

    def reset_peak(self) -> None: ...

    def peak_bytes(self) -> int:
        """The most that was taken since the last reset."""

    def capacity_bytes(self) -> int: ...

    def collect(self) -> None:
        """Free what nothing uses any more."""


class Device(Protocol):
    """A place to run. kind: sim, cpu or cuda."""

    spec: str
    kind: str
    grade: Grade
    wants_values: bool
    """False where weights and activations have shapes only, so that architectures are built empty."""

    @property
    def gpu(self) -> GpuSpec | None:
        """The data sheet by which it is simulated; None where it is real."""

    @property
    def torch_device(self) -> torch.device: ...

    def info(self) -> DeviceInfo:
        """What the report says about it."""

    @contextmanager
    def active(self) -> Iterator[torch.device]:
        """The device can be used while the context is open; the process is as before after it."""

    def place(self, thing: Pipeline | torch.nn.Module) -> None:
        """Move a pipeline or module there."""

    def clock(self) -> float:
        """Seconds, by the clock with which calls on it are timed."""

    def synchronize(self) -> None:
        """Wait until it is idle."""

    @property
    def allocator(self) -> Allocator | None:
        """Counts its memory; None where nothing does."""

    @contextmanager
    def observed(self, observer: Observer, pipe: Pipeline) -> Iterator[None]:
        """Tell the observer what would block, and what is launched, while the context is open."""


def simulated_sheet(device: Device) -> GpuSpec:
    """The data sheet of a device that is simulated."""
    assert device.gpu is not None, f"{device.spec} is real"
    return device.gpu


def resolve_device(spec: str | None) -> Device:
    """The device of a spec: `cuda` (the current one), `cuda:1`, `cpu`, `sim`, `sim:h100`. None: CUDA where
    there is one, else the simulated A100.

    Raises UsageError for an unknown one, or for CUDA without a GPU.
    """
    kind, colon, rest = (spec or _default()).partition(":")
    if kind == "sim":
        from diffprof.devices.simulated.device import SimulatedDevice

        return SimulatedDevice(rest or DEFAULT_SIMULATED.partition(":")[2])
    if kind == "cpu" and not colon:
        from diffprof.devices.cpu import CpuDevice

        return CpuDevice()
    if kind == "cuda" and (not colon or (rest.isascii() and rest.isdecimal())):
        from diffprof.devices.cuda import CudaDevice

        return CudaDevice(int(rest) if colon else None)
    raise UsageError(
        f"There is no device {spec!r}.",
        f"Use cuda, cuda:1, cpu, or a simulated GPU such as {DEFAULT_SIMULATED}.",
    )


def sheet_of(name: str) -> GpuSpec:
    """The data sheet of a GPU by its own name, or by the device that it is here: `cuda`, `cuda:1`.

    Raises UsageError where there is none.
    """
    from diffprof.gpu.specs import load_spec, spec_of_device

    if name.partition(":")[0] != "cuda":
        return load_spec(name)
    try:
        info = resolve_device(name).info()
    except UsageError as error:
        raise UsageError(error.what, "Name the GPU that you mean: `diffprof gpus` lists them.") from error
    found = spec_of_device(info.name, info.memory_bytes, info.details.get("processors"))
    if found is None:
        raise UsageError(
            f"There is no data sheet of {info.name}.", "`diffprof gpus` lists those that there are."
        )
    return found


def _default() -> str:
    from diffprof.devices import cuda_runtime

    return "cuda" if cuda_runtime.RUNTIME.count() else DEFAULT_SIMULATED
