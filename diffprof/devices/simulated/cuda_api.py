"""What each public name of `torch.cuda` does where there is only the simulated device: every one is decided.

simulated: `runtime` answers as the device. harmless: accepted, nothing happens. refused: an error says what
to do. as it is: PyTorch's own, which needs no GPU or asks names that are simulated.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch

from .graphs import unused_hook
from .runtime import SimModule, needs_a_gpu


class CudaAnswer(enum.StrEnum):
    """What a name of `torch.cuda` does."""

    SIMULATED = "simulated"
    HARMLESS = "harmless"
    REFUSED = "refused"
    AS_IT_IS = "as it is"


NAMESPACES = (
    "torch.cuda",
    "torch.cuda.memory",
    "torch.cuda.graphs",
    "torch.cuda.random",
    "torch.cuda.streams",
    "torch.cuda.amp",
    "torch.cuda.profiler",
    "torch.cuda.nvtx",
)

_NOTHING: Callable[..., object] = lambda *args, **kwargs: None  # noqa: E731
_ZERO: Callable[..., object] = lambda *args, **kwargs: 0  # noqa: E731
_BLANK: Callable[..., object] = lambda *args, **kwargs: {}  # noqa: E731


@contextlib.contextmanager
def _inside(*args: object, **kwargs: object) -> Iterator[None]:
    yield


GRAPH_MOMENTS = ("capture_start", "capture_end", "instantiate", "replay_start", "replay_end", "destroy")

HARMLESS: dict[str, Callable[..., object]] = {
    # Settings of a driver that is not there.
    "set_per_process_memory_fraction": _NOTHING,
    "get_per_process_memory_fraction": lambda device=None: 1.0,
    "set_sync_debug_mode": _NOTHING,
    "get_sync_debug_mode": _ZERO,
    "caching_allocator_enable": _NOTHING,
    "caching_allocator_disabled": _inside,
    "use_mem_pool": _inside,
    "get_allocator_backend": lambda: "native",
    "can_device_access_peer": lambda device, peer_device: False,
    "ipc_collect": _NOTHING,
    "check_error": _NOTHING,
    # What NVML would say: a script logs it.
    "memory_usage": _ZERO,
    "utilization": _ZERO,
    "temperature": _ZERO,
    "power_draw": _ZERO,
    "clock_rate": _ZERO,
    "list_gpu_processes": lambda device=None: "GPU:0\nno processes are running",
    # What the caching allocators keep beyond what is counted here.
    "memory_snapshot": lambda *args, **kwargs: [],
    "host_memory_stats": _BLANK,
    "host_memory_stats_as_nested_dict": _BLANK,
    "reset_accumulated_host_memory_stats": _NOTHING,
    "reset_peak_host_memory_stats": _NOTHING,
    "_record_memory_history": _NOTHING,
    "_dump_snapshot": _NOTHING,
    "_snapshot": _BLANK,
    "_sleep": _NOTHING,
    # What looks at CUDA's own graphs (from torch 2.14 on): there are none.
    "export_dot": lambda path, *, verbose=True: _NOTHING,
    "export_graph_data": lambda path: _NOTHING,
    **{f"register_graph_{when}_hook": unused_hook for when in GRAPH_MOMENTS},
    # Marks for a profiler.
    "start": _NOTHING,
    "stop": _NOTHING,
    "profile": _inside,
    "mark": _NOTHING,
    "range": _inside,
    "range_push": _ZERO,
    "range_pop": _ZERO,
    "range_start": _ZERO,
    "range_end": _NOTHING,
}
"""By name, what the call gives."""

PRIVATE = ("_record_memory_history", "_dump_snapshot", "_snapshot", "_sleep")
"""Private names that documentation and recipes tell people to call."""

REFUSED = frozenset(
    {
        "CUDAPluggableAllocator",
        "GreenContext",
        "caching_allocator_alloc",
        "caching_allocator_delete",
        "change_current_allocator",
        "current_blas_handle",
        "current_solver_handle",
    }
)
"""They give or take addresses of CUDA's own objects."""

AS_IT_IS = frozenset(
    {
        # Errors, constants, and functions of other names here.
        *("CudaError", "DeferredCudaCallError", "cudaStatus"),
        *("get_gencode_flags", "has_half", "has_magma"),
        *("memory_cached", "max_memory_cached", "reset_max_memory_cached"),
        # torch.amp in another coat.
        *("GradScaler", "amp_definitely_not_available", "autocast", "custom_bwd", "custom_fwd"),
        # Types of old storages, asked for by `isinstance`.
        *(f"{kind}Storage" for kind in ("BFloat16", "Bool", "Byte", "Char", "ComplexDouble")),
        *(f"{kind}Storage" for kind in ("ComplexFloat", "Double", "Float", "Half", "Int", "Long", "Short")),
    }
)

TENSOR_TYPES = {
    "BFloat16Tensor": torch.bfloat16,
    "BoolTensor": torch.bool,
    "ByteTensor": torch.uint8,
    "CharTensor": torch.int8,
    "DoubleTensor": torch.float64,
    "FloatTensor": torch.float32,
    "HalfTensor": torch.float16,
    "IntTensor": torch.int32,
    "LongTensor": torch.int64,
    "ShortTensor": torch.int16,
}
"""`torch.cuda.FloatTensor` and the like: simulated as constructors, and in `Tensor.type`."""


def answer_to(name: str) -> CudaAnswer | None:
    """What a name does; None: nobody has decided."""
    if name in HARMLESS:
        return CudaAnswer.HARMLESS
    if name in REFUSED:
        return CudaAnswer.REFUSED
    if name in AS_IT_IS:
        return CudaAnswer.AS_IT_IS
    simulated = name in TENSOR_TYPES or (not name.startswith("_") and name in vars(SimModule))
    return CudaAnswer.SIMULATED if simulated else None


def public_names(module: ModuleType) -> tuple[str, ...]:
    """The names that a module offers, without other modules."""
    offered = getattr(module, "__all__", None)
    if offered is not None:
        held = (name for name in offered if hasattr(module, name))
        return tuple(name for name in held if not isinstance(getattr(module, name), ModuleType))
    own = (n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return tuple(name for name in own if not name.startswith("_"))


def stand_ins(sim: object) -> Iterator[tuple[ModuleType, str, object]]:
    """(module, name, what stands in for it) of all that is not left as it is. sim: the module `torch.sim`."""
    for namespace in NAMESPACES:
        module = importlib.import_module(namespace)
        private = (name for name in PRIVATE if hasattr(module, name))
        for name in (*public_names(module), *private):
            answer = answer_to(name)
            if answer is CudaAnswer.HARMLESS:
                yield module, name, HARMLESS[name]
            elif answer is CudaAnswer.REFUSED:
                yield module, name, _refusing(f"{namespace}.{name}")
            elif answer is CudaAnswer.SIMULATED and name not in TENSOR_TYPES:
                yield module, name, getattr(sim, name)


def _refusing(name: str) -> Callable[..., object]:
    def refuse(*args: object, **kwargs: object) -> object:
        raise needs_a_gpu(name)

    return refuse


def tensor_type(name: str, dtype: torch.dtype, device: Callable[[], torch.device]) -> type:
    """A class that makes tensors of a dtype on the device, and that those tensors are instances of."""

    class Type(type):
        dtype: torch.dtype

        def __instancecheck__(cls, instance: Any) -> bool:
            here = isinstance(instance, torch.Tensor) and instance.device.type == device().type
            return here and instance.dtype == cls.dtype

        def __call__(cls, *args: object) -> torch.Tensor:
            if len(args) == 1 and isinstance(args[0], list | tuple) and not isinstance(args[0], torch.Size):
                return torch.tensor(args[0], dtype=cls.dtype, device=device())
            return torch.empty(*args, dtype=cls.dtype, device=device())

    return Type(name, (), {"__module__": "torch.cuda", "dtype": dtype})
