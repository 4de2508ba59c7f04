"""A CUDA device as a place to run a target. Waits are told by two witnesses: the operators that pass the
dispatcher, judged by the same table as on the simulated GPU, and `torch.cuda.set_sync_debug_mode`."""

from __future__ import annotations

import functools
import gc
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffprof.devices import cuda_runtime
from diffprof.devices.classify import classify
from diffprof.devices.simulated import Blocking, Observer
from diffprof.devices.simulated.blocking import FREED, SYNCHRONIZE, Wait
from diffprof.gpu.specs import spec_of_device
from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline, replaced
from diffprof.model.recording import DeviceInfo, Grade

SYNC_WARNING = "called a synchronizing CUDA operation"
"""Text of the warning that the sync debug mode emits (c10/cuda/CUDAFunctions.cpp, warn_or_error_on_sync)."""


class CudaDevice:
    """`cuda:<index>`."""

    kind = "cuda"
    gpu = None
    grade = Grade.MEASURED
    wants_values = True

    def __init__(self, index: int | None = None) -> None:
        """index: None is the current device. Raises UsageError where PyTorch sees no such device."""
        if index is None:
            index = self.runtime.current() if self.runtime.count() else 0
        count = self.runtime.count()
        if not 0 <= index < count:
            raise UsageError(
                f"There is no CUDA device {index}: PyTorch {torch.__version__} sees {count}.",
                "Scan on a simulated GPU (--device sim:a100-80gb), or on --device cpu.",
            )
        self.index = index
        self.spec = f"cuda:{index}"

    @property
    def runtime(self) -> cuda_runtime.CudaRuntime:
        return cuda_runtime.RUNTIME

    @property
    def torch_device(self) -> torch.device:
        return self.runtime.torch_device(self.index)

    def info(self) -> DeviceInfo:
        properties = self.runtime.properties(self.index)
        sheet = spec_of_device(properties.name, properties.total_memory, properties.multi_processor_count)
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
        with self.runtime.made_current(self.index):
            yield self.torch_device

    def clock(self) -> float:
        return self.runtime.clock()

    def synchronize(self) -> None:
        self.runtime.synchronize(self.index)

    @property
    def has_bf16(self) -> bool:
        return self.runtime.has_bf16(self.index)

    @property
    def allocator(self) -> CudaAllocator:
        return CudaAllocator(self.index)

    def place(self, thing: Pipeline | torch.nn.Module) -> None:
        thing.to(self.torch_device)

    @contextmanager
    def observed(self, observer: Observer, pipe: Pipeline) -> Iterator[None]:
        heard = sync_warnings(getattr(observer, "witness", _unheard))
        with explicit_waits(observer), heard, BlockingMode(observer, self.runtime.holds):
            yield


class CudaAllocator:
    """Memory of one CUDA device, bytes, as PyTorch's allocator counts it."""

    def __init__(self, index: int) -> None:
        self.index = index

    def reset_peak(self) -> None:
        cuda_runtime.RUNTIME.reset_peak(self.index)

    def peak_bytes(self) -> int:
        return cuda_runtime.RUNTIME.peak_bytes(self.index)

    def capacity_bytes(self) -> int:
        return cuda_runtime.RUNTIME.properties(self.index).total_memory

    def collect(self) -> None:
        """Free what only garbage holds, and give it back to the driver."""
        gc.collect()
        cuda_runtime.RUNTIME.release_cache()


def _unheard(message: str) -> None:
    """For observers that don't care for the second witness."""


class BlockingMode(TorchDispatchMode):
    """Tells an observer which operators on real tensors make the CPU wait. is_device: whether a tensor
    lies on the device."""

    def __init__(self, observer: Observer, is_device: Callable[[torch.Tensor], bool]) -> None:
        super().__init__()
        self.observer = observer
        self.is_device = is_device

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        for event in classify(func, args, kwargs, self.is_device):
            self.observer.blocking(event)
        if func.namespace not in ("aten", "prims", "prim"):
            self.observer.opaque(str(func))
        return func(*args, **kwargs)


EXPLICIT: tuple[tuple[object, str, str, Wait], ...] = (
    (torch.cuda, "synchronize", "torch.cuda.synchronize", SYNCHRONIZE),
    (torch.cuda.Stream, "synchronize", "Stream.synchronize", SYNCHRONIZE),
    (torch.cuda.Event, "synchronize", "Event.synchronize", SYNCHRONIZE),
    (torch.accelerator, "synchronize", "torch.accelerator.synchronize", SYNCHRONIZE),
    (torch.cuda, "empty_cache", "torch.cuda.empty_cache", FREED),
)
"""(owner, attribute, name as told, why it waits): where a program asks to wait. No operator is dispatched for
it, and only a stream's wait is warned of (c10/cuda/CUDAFunctions.cpp: device_synchronize)."""

GENERIC = {torch.Stream: "torch.Stream.synchronize", torch.Event: "torch.Event.synchronize"}
"""C types of any accelerator, whose methods can't be replaced, and what a wait on them is told as."""


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"


@contextmanager
def explicit_waits(
    observer: Observer, is_device: Callable[[torch.device], bool] = _is_cuda
) -> Iterator[None]:
    """Tell the observer of everything in EXPLICIT and GENERIC that the program calls. is_device: whether a
    generic stream or event is the device's."""
    with _generic_waits(observer, is_device), ExitStack() as stack:
        for owner, attribute, name, wait in EXPLICIT:
            own = getattr(owner, attribute)
            stack.enter_context(replaced(owner, attribute, _told(own, name, wait, observer)))
        yield


@contextmanager
def _generic_waits(observer: Observer, is_device: Callable[[torch.device], bool]) -> Iterator[None]:
    """By the interpreter's hook for calls, on this thread and those it starts. A hook that is there already,
    such as a profiler's, stays, and nothing is told."""

    def called(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ != "synchronize":
            return
        owner: Any = getattr(function, "__self__", None)
        name = GENERIC.get(type(owner))
        if name is not None and is_device(owner.device):
            observer.blocking(
                Blocking(SYNCHRONIZE.kind, name, SYNCHRONIZE.reason, SYNCHRONIZE.source, 0, (), "", True)
            )

    if sys.getprofile() is not None:
        yield
        return
    threads = threading.getprofile()
    sys.setprofile(called)
    threading.setprofile(called)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(threads)  # type: ignore[arg-type]  # None takes it away


def _told(own: Callable[..., object], name: str, wait: Wait, observer: Observer) -> object:
    @functools.wraps(own)
    def told(*args: object, **kwargs: object) -> object:
        observer.blocking(Blocking(wait.kind, name, wait.reason, wait.source, 0, (), "", True))
        return own(*args, **kwargs)

    return told


@contextmanager
def sync_warnings(
    witness: Callable[[str], None], *, mode: Callable[[int | str], None] | None = None
) -> Iterator[None]:
    """Arm the sync debug mode, and hand each of its warnings to `witness` on the thread and stack that
    caused it. The mode and the warning filters are as before after it.

    mode: sets the debug mode; the runtime's unless given.
    """
    set_mode = mode or cuda_runtime.RUNTIME.set_sync_debug_mode
    before = cuda_runtime.RUNTIME.sync_debug_mode() if mode is None else 0
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=f".*{SYNC_WARNING}.*")
        warnings.filterwarnings("ignore", message="Synchronization debug mode is a prototype")
        show = warnings.showwarning

        def showwarning(message: Warning | str, *rest: Any, **named: Any) -> None:
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
