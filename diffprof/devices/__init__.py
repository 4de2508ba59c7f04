"""Where a target runs: a CUDA device, the CPU, or a simulated GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from diffprof.model.errors import UsageError
from diffprof.model.recording import DeviceInfo, Grade

if TYPE_CHECKING:
    import torch

    from diffprof.devices.simulated import Observer

DEFAULT_SIMULATED = "sim:a100-80gb"


class Device(Protocol):
    """A place to run. kind: sim, cpu or cuda."""

    spec: str
    kind: str
    grade: Grade
    wants_values: bool
    """False where weights and activations have shapes only, so that architectures are built empty."""

    @property
    def torch_device(self) -> torch.device: ...

    def info(self) -> DeviceInfo:
        """What the report says about it."""

    @contextmanager
    def active(self) -> Iterator[torch.device]:
        """The device can be used while the context is open; the process is as before after it."""

    def place(self, thing: Any) -> None:
        """Move a pipeline or module there."""

    @contextmanager
    def observed(self, observer: Observer, pipe: Any) -> Iterator[None]:
        """Tell the observer what would block, and what is launched, while the context is open."""


def resolve_device(spec: str | None) -> Device:
    """The device of a spec: `cuda`, `cuda:1`, `cpu`, `sim`, `sim:h100`. None: CUDA where there is one, else
    the simulated A100.

    Raises UsageError for an unknown one, or for CUDA without a GPU.
    """
    kind, _, rest = (spec or _default()).partition(":")
    if kind == "sim":
        from diffprof.devices.simulated.device import SimulatedDevice

        return SimulatedDevice(rest or DEFAULT_SIMULATED.partition(":")[2])
    if kind == "cpu":
        from diffprof.devices.cpu import CpuDevice

        return CpuDevice()
    if kind == "cuda":
        from diffprof.devices.cuda import CudaDevice

        return CudaDevice(int(rest) if rest.isdecimal() else 0)
    raise UsageError(
        f"There is no device {spec!r}.",
        f"Use cuda, cpu, or a simulated GPU such as {DEFAULT_SIMULATED}.",
    )


def _default() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else DEFAULT_SIMULATED
