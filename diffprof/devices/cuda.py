"""A CUDA device as a place to run a target. Waits are told by two witnesses: the operators that pass the
dispatcher, judged by the same table as on the simulated GPU, and `torch.cuda.set_sync_debug_mode`."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffprof.devices.classify import classify
from diffprof.devices.simulated import Blocking, Observer
from diffprof.devices.simulated.blocking import SYNCHRONIZE
from diffprof.gpu.specs import spec_of_device
from diffprof.model.errors import UsageError
from diffprof.model.recording import DeviceInfo, Grade
from diffprof.targets.pipeline import replaced

SYNC_WARNING = "called a synchronizing CUDA operation"
"""Text of the warning that the sync debug mode emits (c10/cuda/CUDAFunctions.cpp, warn_or_error_on_sync)."""


class CudaDevice:
    """`cuda:<index>`."""

    kind = "cuda"
    grade = Grade.MEASURED
    wants_values = True

    def __init__(self, index: int = 0) -> None:
        """Raises UsageError where PyTorch sees no such device."""
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if index >= count:
            raise UsageError(
                f"There is no CUDA device {index}: PyTorch {torch.__version__} sees {count}.",
                "Scan on a simulated GPU (--device sim:a100-80gb), or on --device cpu.",
            )
        self.index = index
        self.spec = f"cuda:{index}"

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cuda", self.index)

    def info(self) -> DeviceInfo:
        properties = torch.cuda.get_device_properties(self.index)
        sheet = spec_of_device(properties.name, properties.total_memory)
        known = {"peak_tflops": dict(sheet.peak), "bandwidth_gb_s": sheet.bandwidth_gb_s} if sheet else {}
        return DeviceInfo(
            spec=self.spec,
            kind=self.kind,
            name=properties.name,
            grade=self.grade,
            memory_bytes=properties.total_memory,
            details={
                "capability": f"{properties.major}.{properties.minor}",
                "processors": properties.multi_processor_count,
                "cuda": torch.version.cuda or torch.version.hip or "",
                **known,
            },
        )

    @contextmanager
    def active(self) -> Iterator[torch.device]:
        with torch.cuda.device(self.index):
            yield self.torch_device

    def place(self, thing: Any) -> None:
        thing.to(self.torch_device)

    @contextmanager
    def observed(self, observer: Observer, pipe: Any) -> Iterator[None]:
        heard = sync_warnings(getattr(observer, "witness", _unheard))
        with explicit_waits(observer), heard, BlockingMode(observer, _on_cuda):
            yield


def _unheard(message: str) -> None:
    """For observers that don't care for the second witness."""


def _on_cuda(tensor: torch.Tensor) -> bool:
    return tensor.is_cuda


class BlockingMode(TorchDispatchMode):
    """Tells an observer which operators on real tensors make the host wait. is_device: whether a tensor
    lies on the device."""

    def __init__(self, observer: Observer, is_device: Callable[[torch.Tensor], bool]) -> None:
        super().__init__()
        self.observer = observer
        self.is_device = is_device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for event in classify(func, args, kwargs, self.is_device):
            self.observer.blocking(event)
        if func.namespace not in ("aten", "prims", "prim"):
            self.observer.opaque(str(func))
        return func(*args, **kwargs)


EXPLICIT = (
    (torch.cuda, "torch.cuda.synchronize"),
    (torch.cuda.Stream, "Stream.synchronize"),
    (torch.cuda.Event, "Event.synchronize"),
    (torch.accelerator, "torch.accelerator.synchronize"),
)
"""Where a program asks to wait; no operator is dispatched for it, and only a stream's wait is warned of
(c10/cuda/CUDAFunctions.cpp: device_synchronize)."""


@contextmanager
def explicit_waits(observer: Observer) -> Iterator[None]:
    """Tell the observer of every `synchronize()` of the program."""
    with ExitStack() as stack:
        for owner, name in EXPLICIT:
            stack.enter_context(replaced(owner, "synchronize", _told(owner.synchronize, name, observer)))
        yield


def _told(synchronize: Any, name: str, observer: Observer) -> Any:
    @functools.wraps(synchronize)
    def told(*args: Any, **kwargs: Any) -> Any:
        observer.blocking(
            Blocking(SYNCHRONIZE.kind, name, SYNCHRONIZE.reason, SYNCHRONIZE.source, 0, (), "", True)
        )
        return synchronize(*args, **kwargs)

    return told


@contextmanager
def sync_warnings(
    witness: Callable[[str], None], *, mode: Callable[[Any], None] | None = None
) -> Iterator[None]:
    """Arm the sync debug mode, and hand each of its warnings to `witness` on the thread and stack that
    caused it. The mode and the warning filters are as before after it.

    mode: sets the debug mode; `torch.cuda.set_sync_debug_mode` unless given.
    """
    set_mode = mode or torch.cuda.set_sync_debug_mode
    before = torch.cuda.get_sync_debug_mode() if mode is None else 0
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{SYNC_WARNING}.*")
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        show = warnings.showwarning

        def showwarning(message: Any, *rest: Any, **named: Any) -> None:
            if SYNC_WARNING in str(message):
                witness(str(message))
            else:
                show(message, *rest, **named)

        warnings.showwarning = showwarning  # catch_warnings puts the old one back
        set_mode("warn")
        try:
            yield
        finally:
            set_mode(before)
