"""What C++ does behind the dispatcher, and so has to be wrapped in Python while the device is active.

Constructors that read device scalars out of lists, `Tensor.data`, pinned memory, generators, the accelerator
API. `install` returns a function that puts every name back as it was.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch._C import _is_torch_function_mode_enabled
from torch.overrides import handle_torch_function

from . import autocast, copies, host_placeholders
from .blocking import FROM_SCALARS
from .generators import SimGenerator
from .higher_order import register_flex_attention
from .reads import read_scalar
from .session import SESSION, tell_synchronize
from .tensor import NAME, SimTensor, set_data

_ABSENT = object()


class Patches:
    """Replaced attributes, to be put back in reverse order."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any]] = []

    def set(self, owner: object, name: str, value: object) -> None:
        """Replace an attribute of a module or class. Dynamo must not compile what was C++: compiled
        code calls `torch.as_tensor` for its numbers, and would come to itself."""
        function = getattr(value, "__func__", value)
        if isinstance(function, types.FunctionType):
            importlib.import_module("torch._dynamo.eval_frame").skip_code(function.__code__)
        self._done.append((owner, name, vars(owner).get(name, _ABSENT)))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put everything back."""
        while self._done:
            owner, name, value = self._done.pop()
            if value is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


def install() -> Callable[[], None]:
    """Wrap what has to be wrapped. Call the result to undo it."""
    patches = Patches()
    # A cache of the constructors by identity (torch.device as a context): fill it before they are wrapped.
    importlib.import_module("torch.utils._device")._device_constructors()
    filled = _tables_filled()
    try:
        _constructors(patches)
        _pinned_factories(patches)
        _flex_attention(patches)
        _tensor_methods(patches)
        _generator(patches)
        _accelerator(patches)
        patches.set(numpy, "stack", host_placeholders.stacking(numpy.stack))
        patches.set(torch, "clear_autocast_cache", _clearing(torch.clear_autocast_cache))
    except BaseException:
        patches.undo()
        raise

    def undo() -> None:
        patches.undo()
        _forget_tables(filled)

    return undo


def _tables() -> dict[str, Any]:
    """What others cache of torch: Dynamo's tables of its functions by identity, diffusers' device."""
    rules = sys.modules.get("torch._dynamo.trace_rules")
    names = ("get_torch_obj_rule_map", "get_tensor_method", "get_legacy_mod_inlinelist", "get_mod_inlinelist")
    found = {name: getattr(rules, name, None) for name in names}
    backend = getattr(sys.modules.get("diffusers.utils.torch_utils"), "TorchDeviceBackend", None)
    found["device"] = getattr(backend, "_detect_device_type", None)
    return {name: f for name, f in found.items() if hasattr(f, "cache_info")}


def _tables_filled() -> set[str]:
    return {name for name, f in _tables().items() if f.cache_info().currsize}


def _forget_tables(filled: set[str]) -> None:
    """Let those be filled again that were filled while names were wrapped."""
    for name, f in _tables().items():
        if name not in filled:
            f.cache_clear()


# --- constructors ---------------------------------------------------------------------------------


def _has_device_scalar(x: Any) -> bool:
    kind = type(x)
    if kind is list or kind is tuple:
        return any(_has_device_scalar(y) for y in x)
    return kind is SimTensor


def _read_elements(x: Any) -> object:
    kind = type(x)
    if kind is list or kind is tuple:
        return [_read_elements(y) for y in x]
    if kind is SimTensor:
        if x.numel() == 1:
            return read_scalar(x, "torch.tensor", FROM_SCALARS)
        if x.dim() == 1:
            # A sequence inside a sequence: C++ iterates, and reads each element.
            return [read_scalar(y, "torch.tensor", FROM_SCALARS) for y in x.unbind()]
        return [_read_elements(y) for y in x.unbind()]
    return x


def _reading(constructor: Callable[..., object], position: int) -> Callable[..., object]:
    """Read device scalars in lists one by one, as C++ does. Modes of torch functions see the call before."""

    @functools.wraps(constructor)
    def wrapper(*args: object, **kwargs: object) -> object:
        if _is_torch_function_mode_enabled() and any(map(_has_device_scalar, (*args, *kwargs.values()))):
            default = torch.get_default_device()
            if position == 0 and default.type != "cpu":
                kwargs.setdefault("device", default)
            return handle_torch_function(wrapper, (), *args, **kwargs)
        if len(args) > position:
            data = args[position]
            if type(data) in (list, tuple) and _has_device_scalar(data):
                kwargs = _typed(constructor, data, args, kwargs, position)
                args = (*args[:position], _read_elements(data), *args[position + 1 :])
        elif (
            "data" in kwargs and type(kwargs["data"]) in (list, tuple) and _has_device_scalar(kwargs["data"])
        ):
            kwargs = {**_typed(constructor, kwargs["data"], args, kwargs, position)}
            kwargs["data"] = _read_elements(kwargs["data"])
        return constructor(*args, **kwargs)

    return wrapper


def _typed(
    constructor: object, data: object, args: tuple, kwargs: dict[str, object], position: int
) -> dict[str, object]:
    if position or kwargs.get("dtype") is not None or len(args) > 1:
        return kwargs
    dtypes = _dtypes(data)
    if not dtypes:
        return kwargs
    return {**kwargs, "dtype": functools.reduce(torch.promote_types, dtypes)}


def _dtypes(x: Any) -> list[torch.dtype]:
    """Types of the elements of a nested list, as tensor_new.cpp infers them (infer_scalar_type)."""
    if type(x) in (list, tuple):
        return [d for y in x for d in _dtypes(y)]
    if isinstance(x, torch.Tensor):
        return [x.dtype]
    if isinstance(x, bool):
        return [torch.bool]
    if isinstance(x, int):
        return [torch.int64]
    if isinstance(x, float):
        return [torch.get_default_dtype()]
    return []


def _constructors(patches: Patches) -> None:
    for name in ("tensor", "as_tensor", "asarray"):
        patches.set(torch, name, _reading(getattr(torch, name), 0))
    patches.set(torch.Tensor, "new_tensor", _reading(torch.Tensor.new_tensor, 1))
    # torch._dynamo looks at the signature of Tensor.__new__ when it is loaded: load it before.
    importlib.import_module("torch._dynamo.polyfills.loader")
    original = torch.Tensor.__new__

    def new(cls: object, *args: object, **kwargs: object) -> object:
        if args and type(args[0]) in (list, tuple) and _has_device_scalar(args[0]):
            args = (_read_elements(args[0]), *args[1:])
        return original(cls, *args, **kwargs)

    patches.set(torch.Tensor, "__new__", staticmethod(new))


_FACTORIES = [
    "empty",
    "empty_like",
    "empty_strided",
    "zeros",
    "zeros_like",
    "ones",
    "ones_like",
    "full",
    "full_like",
    "rand",
    "rand_like",
    "randn",
    "randn_like",
    "randint",
    "arange",
]


def _pinned_factories(patches: Patches) -> None:
    """`torch.empty(..., pin_memory=True)`: C++ would ask the device for an allocator that it can't have."""
    for name in (*_FACTORIES, "tensor"):
        patches.set(torch, name, _pinning(getattr(torch, name)))


def _pinning(factory: Callable[..., Any]) -> Callable[..., object]:
    @functools.wraps(factory)
    def wrapper(*args: object, **kwargs: object) -> object:
        if kwargs.get("pin_memory"):
            made = factory(*args, **{**kwargs, "pin_memory": False})
            if made.device.type != "cpu":
                raise RuntimeError("Only dense CPU tensors can be pinned")
            return copies.mark_pinned(made)
        return factory(*args, **kwargs)

    return wrapper


def _flex_attention(patches: Patches) -> None:
    module = importlib.import_module("torch.nn.attention.flex_attention")
    register_flex_attention()
    if hasattr(module, "_validate_device"):
        original = module._validate_device

        def validate(query: torch.Tensor, *rest: object, **kwargs: object) -> None:
            if type(query) is not SimTensor:
                original(query, *rest, **kwargs)

        patches.set(module, "_validate_device", validate)
        if hasattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"):
            # Otherwise eager calls are traced by Dynamo, which can't see into the tensor.
            patches.set(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


# --- methods --------------------------------------------------------------------------------------


def _tensor_methods(patches: Patches) -> None:
    raw, make = torch.Tensor.data, torch.Tensor._make_subclass
    patches.set(torch.Tensor, "data", property(raw.__get__, set_data))

    def make_subclass(
        cls: Any, data: torch.Tensor, requires_grad: bool = False, **more: object
    ) -> torch.Tensor:
        """A parameter on the device keeps what its class keeps in fields, as bitsandbytes', not the class."""
        if type(data) is SimTensor and issubclass(cls, torch.nn.Parameter):
            return torch.nn.Parameter(data, requires_grad)
        return make(cls, data, requires_grad, **more)

    patches.set(torch.Tensor, "_make_subclass", staticmethod(make_subclass))
    pin, pinned = torch.Tensor.pin_memory, torch.Tensor.is_pinned

    def pin_memory(self: torch.Tensor, device: torch.types.Device = None) -> torch.Tensor:
        """A copy in memory that counts as page-locked."""
        if self.device.type != "cpu":
            return pin(self, device)
        if copies.is_pinned(self):
            return self
        placeholder = getattr(self.untyped_storage(), host_placeholders.PLACEHOLDER, False)
        return copies.mark_pinned(host_placeholders.placeholder(self) if placeholder else self.clone())

    def is_pinned(self: torch.Tensor, device: torch.types.Device = None) -> bool:
        """Whether the memory counts as page-locked."""
        return self.device.type == "cpu" and (copies.is_pinned(self) or pinned(self))

    record = torch.Tensor.record_stream

    def record_stream(self: torch.Tensor, s: object) -> None:
        """Memory in use on another stream: there is one order here, and the CPU never waits for it."""
        if type(self) is not SimTensor:
            record(self, s)

    patches.set(torch.Tensor, "record_stream", record_stream)
    compatible = torch._has_compatible_shallow_copy_type

    def keeps_identity(tensor: torch.Tensor, moved: torch.Tensor) -> bool:
        """`Module.to` sets the data of parameters and keeps the objects, as between CPU and CUDA, and not
        from or to `meta`."""
        kinds = {type(tensor.data), type(moved.data)}
        real = "meta" not in (tensor.device.type, moved.device.type)
        return (real and kinds == {torch.Tensor, SimTensor}) or compatible(tensor, moved)

    patches.set(torch, "_has_compatible_shallow_copy_type", keeps_identity)
    patches.set(torch.Tensor, "pin_memory", pin_memory)
    patches.set(torch.Tensor, "is_pinned", is_pinned)


def _clearing(original: Callable[[], None]) -> Callable[[], None]:
    @functools.wraps(original)
    def clear() -> None:
        autocast.clear_cache()
        original()

    return clear


# --- generators -----------------------------------------------------------------------------------

_Generator = torch.Generator


class _GeneratorType(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _Generator)

    def __subclasscheck__(cls, sub: type) -> bool:
        return issubclass(sub, _Generator)

    def __call__(cls, device: torch.types.Device = "cpu") -> object:
        if torch.device(device).type == NAME:
            return SimGenerator()
        return _Generator(device)


class _AnyGenerator(metaclass=_GeneratorType):
    """Stands in for `torch.Generator`, whose C++ constructor doesn't know the device."""


def _generator(patches: Patches) -> None:
    _AnyGenerator.__name__ = _AnyGenerator.__qualname__ = "Generator"
    _AnyGenerator.__module__ = "torch"
    patches.set(torch, "Generator", _AnyGenerator)


# --- torch.accelerator ----------------------------------------------------------------------------


def _accelerator(patches: Patches) -> None:
    module = getattr(torch, NAME)
    replaced: dict[str, Callable[..., object]] = {
        "synchronize": lambda device=None, /: tell_synchronize("torch.accelerator.synchronize"),
        "is_available": lambda: SESSION.active,
        "device_count": module.device_count,
        "current_accelerator": lambda check_available=False: torch.device(NAME),
        "current_device_index": lambda: 0,
        "current_device_idx": lambda: 0,
        "set_device_index": lambda device, /: None,
        "set_device_idx": lambda device, /: None,
        "current_stream": lambda device=None, /: module.current_stream(),
        "set_stream": lambda stream: None,
        "empty_cache": module.empty_cache,
        "memory_stats": module.memory_stats,
        "memory_allocated": module.memory_allocated,
        "max_memory_allocated": module.max_memory_allocated,
        "memory_reserved": module.memory_reserved,
        "max_memory_reserved": module.max_memory_reserved,
        "reset_peak_memory_stats": module.reset_peak_memory_stats,
        "reset_accumulated_memory_stats": module.reset_accumulated_memory_stats,
        "get_memory_info": module.mem_get_info,
    }
    for name, value in replaced.items():
        if hasattr(torch.accelerator, name):
            patches.set(torch.accelerator, name, value)
