"""Tensors that take no memory, and a dispatch mode that computes only what is small.

Graph capture needs tensors of the right size; what is in them matters only where Python asks. A storageless
tensor is an ordinary CPU tensor of zeros over memory that is never touched, so that a model of any size can
be captured, graph breaks included: the code around a break runs on and gets numbers when it asks for them.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

import torch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    is_traceable_wrapper_subclass,
)

from diffprof.devices.simulated.host_placeholders import zero_pages
from diffprof.targets.held_pipelines import is_own

SMALL = 1 << 14
"""Elements. Operations whose tensors are all this small are computed; larger ones only have shapes."""

KEPT = 1 << 12
"""Elements. Values of buffers and inputs up to this size are kept: positions, token ids, timesteps."""


def span(shape: tuple[int, ...], stride: tuple[int, ...]) -> int:
    """Elements of storage from a tensor's first one to its last."""
    return 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if 0 not in shape else 0


def unallocated_storage(nbytes: int) -> torch.UntypedStorage:
    """Zeros that take memory only where they are written."""
    if nbytes <= mmap.PAGESIZE:
        return torch.zeros(nbytes, dtype=torch.uint8).untyped_storage()
    return torch.frombuffer(zero_pages(nbytes), dtype=torch.uint8).untyped_storage()


def storageless(shape: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Zeros of that geometry over memory that is taken only when it is written."""
    return laid_over(unallocated_storage(span(shape, stride) * dtype.itemsize), 0, shape, stride, dtype)


def laid_over(
    storage: torch.UntypedStorage,
    offset: int,
    shape: tuple[int, ...],
    stride: tuple[int, ...],
    dtype: torch.dtype,
) -> torch.Tensor:
    """A tensor over a storage. offset: of its first element, in elements."""
    return torch.empty(0, dtype=dtype).set_(storage, offset, shape, stride)


def fill(tensor: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Write values into a tensor whose elements may share memory, as those of `expand` and `as_strided` do:
    `copy_` refuses these."""
    if not tensor.numel():
        return tensor
    with torch.no_grad(), _disable_current_modes():
        at = torch.zeros((), dtype=torch.long)
        for dim, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            at = at + (torch.arange(size) * step).reshape(-1, *[1] * (tensor.dim() - 1 - dim))
        flat = tensor.as_strided((span(tuple(tensor.shape), tensor.stride()),), (1,))
        flat[at.flatten()] = values.reshape(-1)
    return tensor


def storageless_like(tensor: torch.Tensor) -> torch.Tensor:
    """A storageless tensor with the geometry of another one; few readable values are kept."""
    if is_traceable_wrapper_subclass(tensor):
        names, context = tensor.__tensor_flatten__()
        inner = {name: storageless_like(getattr(tensor, name)) for name in names}
        cpu = type(tensor).__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())
        return cpu.requires_grad_(tensor.requires_grad) if tensor.requires_grad else cpu
    if tensor.layout is not torch.strided:
        return tensor
    made = storageless(tuple(tensor.shape), tensor.stride(), tensor.dtype)
    if tensor.numel() <= KEPT and tensor.device.type != "meta":
        fill(made, small_values(tensor))
    return made.requires_grad_(tensor.requires_grad) if tensor.requires_grad else made


def small_values(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's values on the CPU, as plain data."""
    with torch.no_grad():
        return tensor.detach().to("cpu")


class Storageless(TorchDispatchMode):
    """Inside, an operation on a large tensor makes a storageless one of the right shape and computes nothing.

    Views are views, small operations are computed, an in-place write into a large tensor is left out.
    """

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Dynamo goes on under this mode."""
        return True

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        tensors = [a for a in _flat(args) if type(a) is torch.Tensor or isinstance(a, torch.nn.Parameter)]
        tensors += [a for a in _flat(tuple(kwargs.values())) if isinstance(a, torch.Tensor)]
        if func.is_view or not _large(func, args, kwargs, tensors):
            return func(*args, **kwargs)
        schema = func._schema
        if schema.is_mutable:
            return _written(schema, args, kwargs) if _returns_written(schema) else func(*args, **kwargs)
        try:
            shapes = func(*_on_meta(args), **_on_meta({**kwargs, **_device(schema, kwargs)}))
        except (NotImplementedError, RuntimeError):
            return func(*args, **kwargs)
        return _map(_filled, shapes)


def _large(
    func: torch._ops.OpOverload,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    tensors: list[torch.Tensor],
) -> bool:
    if any(t.device.type != "cpu" or is_traceable_wrapper_subclass(t) for t in tensors):
        return False
    if tensors:
        return any(t.numel() > SMALL for t in tensors)
    # A factory: its size is the first argument.
    size = args[0] if args and isinstance(args[0], list | tuple) else ()
    total = 1
    for n in size:
        total *= n if isinstance(n, int) else 1
    device = kwargs.get("device")
    return total > SMALL and (device is None or torch.device(device).type == "cpu")


def _device(schema: torch.FunctionSchema, kwargs: Mapping[str, object]) -> dict[str, Any]:
    named = any(a.name == "device" for a in schema.arguments)
    return {"device": torch.device("meta")} if named else {}


def _returns_written(schema: torch.FunctionSchema) -> bool:
    return bool(schema.returns) and all(r.alias_info is not None for r in schema.returns)


def _written(schema: torch.FunctionSchema, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
    """What an in-place operation returns: the tensors it would have written."""
    out = []
    for at, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            out.append(args[at] if at < len(args) else kwargs[argument.name])
    return out[0] if len(out) == 1 else tuple(out)


def _on_meta(value: object) -> Any:
    return _map(lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta"), value)


def _filled(shape: torch.Tensor) -> torch.Tensor:
    return storageless(tuple(shape.shape), shape.stride(), shape.dtype)


def _map(change: Callable[[torch.Tensor], object], value: object) -> object:
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)(_map(change, v) for v in value)
    if isinstance(value, dict):
        return {k: _map(change, v) for k, v in value.items()}
    return value


def _flat(value: object) -> list[object]:
    if isinstance(value, list | tuple):
        return [leaf for v in value for leaf in _flat(v)]
    return [value]


# --- whole objects -------------------------------------------------------------------------------------


class Emptier:
    """Replaces every tensor that objects hold by a storageless CPU tensor, and every device by the CPU: in
    modules, their attributes and hooks, in what these hold in turn, and in what their functions name, by
    closures and, in code that is the user's own, as globals. Shared tensors stay shared; the replaced ones
    are kept alive, for their memory may belong to a device that this process can't use."""

    def __init__(self) -> None:
        self._visited: dict[int, object] = {}
        self._twins: dict[int, torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []

    def empty(self, root: torch.nn.Module) -> None:
        """Go through everything that `root` reaches. In place."""
        pending = [root]
        while pending:
            owner = pending.pop()
            if id(owner) in self._visited:
                continue
            self._visited[id(owner)] = owner
            if isinstance(owner, _CALLED):
                self._named_by(owner, pending)
            held = owner if isinstance(owner, dict) else getattr(owner, "__dict__", None)
            if not isinstance(held, dict):
                continue
            for name, value in list(held.items()):
                new = self._replaced(value, name, pending)
                if new is not value:
                    dict.__setitem__(held, name, new)

    def _named_by(self, function: Any, pending: list[object]) -> None:
        if isinstance(function, MethodType):
            pending += [function.__self__, function.__func__]
        elif isinstance(function, functools.partial):
            args = tuple(self._replaced(each, "", pending) for each in function.args)
            named = {name: self._replaced(each, name, pending) for name, each in function.keywords.items()}
            function.__setstate__((function.func, args, named, vars(function)))  # type: ignore[attr-defined]
            pending.append(function.func)
        else:
            for cell in function.__closure__ or ():
                with suppress(ValueError):  # it is empty
                    new = self._replaced(cell.cell_contents, "", pending)
                    if new is not cell.cell_contents:
                        cell.cell_contents = new
            if is_own(function.__code__.co_filename):
                pending.append(function.__globals__)

    def tensor(self, value: torch.Tensor) -> torch.Tensor:
        """The storageless twin of a tensor, the same one every time."""
        twin = self._twins.get(id(value))
        if twin is None:
            twin = storageless_like(value)
            if isinstance(value, torch.nn.Parameter) and not isinstance(twin, torch.nn.Parameter):
                twin = torch.nn.Parameter(twin.detach(), requires_grad=value.requires_grad)
            self._twins[id(value)] = self._twins[id(twin)] = twin
            self._kept.append(value)
        return twin

    def _replaced(self, value: Any, name: Any, pending: list[Any]) -> object:
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, torch.device):
            return torch.device("cpu") if value.type != "cpu" else value
        if isinstance(value, int) and not isinstance(value, bool) and str(name).endswith("device"):
            return torch.device("cpu")  # accelerate names CUDA devices by number
        if type(value) in (list, tuple):
            new = [self._replaced(v, name, pending) for v in value]
            changed = any(a is not b for a, b in zip(new, value, strict=True))
            return type(value)(new) if changed else value
        if isinstance(value, (dict, *_CALLED)) or has_own_state(value):
            pending.append(value)
        return value


_CALLED = FunctionType, MethodType, functools.partial


def has_own_state(value: object) -> bool:
    """Objects of pipelines, models and their hooks, as opposed to what belongs to the interpreter."""
    if isinstance(value, type) or not hasattr(value, "__dict__"):
        return False
    if isinstance(value, torch.nn.Module):
        return True
    package = type(value).__module__.partition(".")[0]
    return package not in ("builtins", "torch", "types", "functools", "threading", "logging", "mmap")
