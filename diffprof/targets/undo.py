"""A pipeline and the process around it, remembered so that they can be given back exactly as they were.

What is remembered is whatever can be reached from the pipeline: modules with their tables, parameters and
buffers with their bytes, schedulers, processors, hooks, configurations, containers; the classes of all of
these and the modules of diffusers, where code can be patched; and torch's global settings.
"""

from __future__ import annotations

import collections
import enum
import importlib
import os
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch

from diffprof.devices.simulated import is_simulated
from diffprof.devices.storages import Kept, Storages, View
from diffprof.model.pipeline import Pipeline
from diffprof.targets.process import SETTINGS

CONFIGS = ("torch._inductor.config", "torch._dynamo.config", "torch._functorch.config")

_CONTAINERS = (dict, list, set, collections.deque)
_PLAIN = frozenset((*_CONTAINERS, collections.OrderedDict))
"""Containers that hold nothing but their content."""
_LEAVES = (
    *(str, bytes, int, float, complex, bool, type(None), type(Ellipsis), range, slice),
    *(type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType, types.CodeType, property),
    *(torch.dtype, torch.device, torch.Size, torch.Generator, torch.layout, torch.memory_format),
)
_OPAQUE = ("torch._dynamo", "torch._inductor", "torch.fx", "logging", "threading", "concurrent", "weakref")
"""Packages whose objects belong to the process, not to a pipeline."""

_ABSENT = object()


class Snapshot:
    """The state of some objects and of the process. Take one, change things, `restore()`, as often as wanted.

    storages: those of a series of snapshots, which holds each weight once. contents: whether bytes are
    copied, for what is written in place; without, tensors get back their storage only.
    """

    def __init__(self, *roots: object, storages: Storages | None = None, contents: bool = True) -> None:
        self.process = ProcessState()
        self._objects: list[tuple[object, type, dict[str, object]]] = []
        self._containers: list[tuple[Any, Any]] = []
        self._empty: list[Any] = []
        """Containers without content: most, for each module has a dozen tables of hooks."""
        self._arrays: list[tuple[np.ndarray, np.ndarray]] = []
        self._tensors: list[tuple[torch.Tensor, View | torch.Tensor, bool]] = []
        self._kept: dict[int, Kept] = {}
        self._classes: dict[type, dict[str, object]] = {}
        self._storages = storages if storages is not None else Storages()
        self._contents = contents
        self._known = self._storages.by_place()
        with torch.no_grad():
            self._walk(roots)
        self._known = {}  # held on, it would keep what no snapshot wants any more
        self._storages.used_by(self)
        self._modules = [
            (module, dict(vars(module)))
            for name, module in list(sys.modules.items())
            if (name == "diffusers" or name.startswith("diffusers.")) and isinstance(module, types.ModuleType)
        ]

    # --- taking ---------------------------------------------------------------------------------------

    def _walk(self, roots: Iterable[object]) -> None:
        seen: set[int] = set()
        waiting: list[Any] = []
        self._await(roots, waiting, seen)
        while waiting:
            thing = waiting.pop()
            kind = _kind(type(thing))
            if kind == "container":
                copied = dict(thing.items()) if isinstance(thing, dict) else list(thing)
                self._containers.append((thing, copied))
                self._await(copied.values() if isinstance(copied, dict) else copied, waiting, seen)
            elif kind == "tuple":
                self._await(thing, waiting, seen)
            elif kind == "tensor":
                self._tensor(thing)
                continue
            elif kind == "array":
                self._arrays.append((thing, thing.copy()))
                continue
            elif kind == "method":
                self._await((thing.__self__,), waiting, seen)
                continue
            held = getattr(thing, "__dict__", None)
            if type(held) is dict:
                self._objects.append((thing, type(thing), dict(held)))
                self._class(type(thing))
                self._await(held.values(), waiting, seen)

    def _await(self, values: Iterable[object], waiting: list[object], seen: set[int]) -> None:
        """Those that hold something that can change are looked at later, if they were not yet."""
        for value in values:
            cls = type(value)
            kind = _KINDS.get(cls) or _kind(cls)
            if kind == "leaf" or id(value) in seen:
                continue
            seen.add(id(value))
            if cls in _PLAIN and not value:
                self._empty.append(value)
            else:
                waiting.append(value)

    def _tensor(self, tensor: torch.Tensor) -> None:
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
        if not plain and not is_simulated(tensor):
            return  # a wrapper (quantized weights, say): changed by putting another in its place
        data: View | torch.Tensor = tensor.data
        if plain and self._contents and _has_bytes(tensor):
            data = self._storages.view(tensor, self._kept, self._known)
        self._tensors.append((tensor, data, tensor.requires_grad))

    def tensors(self) -> Iterator[torch.Tensor]:
        """Tensors whose bytes are remembered."""
        return (tensor for tensor, data, _ in self._tensors if isinstance(data, View))

    def _class(self, cls: type) -> None:
        if cls in self._classes:
            return
        for each in cls.__mro__:
            if each not in self._classes and each.__module__ != "builtins":
                self._classes[each] = dict(vars(each))

    # --- giving back ----------------------------------------------------------------------------------

    def restore(self) -> None:
        """Everything is as it was when the snapshot was taken."""
        with torch.no_grad():
            for thing, cls, held in self._objects:
                if type(thing) is not cls:
                    object.__setattr__(thing, "__class__", cls)
                _refill(vars(thing), held)
            for container, content in self._containers:
                _give_back(container, content)
            for container in filter(None, self._empty):
                container.clear()
            back = {kept: kept.back() for kept in self._kept.values()}
            for tensor, remembered, requires_grad in self._tensors:
                data = remembered.data(back) if isinstance(remembered, View) else remembered
                if not _same_place(tensor, data):
                    tensor.data = data
                if tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
            for array, values in self._arrays:
                if not np.array_equal(array, values, equal_nan=array.dtype.kind in "fc"):
                    array[...] = values
        for cls, content in self._classes.items():
            _restore_class(cls, content)
        for module, content in self._modules:
            if _identical(vars(module), content):
                continue
            for name, value in content.items():
                if vars(module).get(name, _ABSENT) is not value:
                    vars(module)[name] = value
        self.process.restore()


@contextmanager
def restored(pipe: Pipeline) -> Iterator[None]:
    """After the context, the pipeline is as it was, and the process; tensors that were written in place keep
    what was written."""
    before = Snapshot(pipe, contents=False)
    try:
        yield
    finally:
        before.restore()


_KINDS: dict[type, str] = {}


def _kind(cls: type) -> str:
    """How to remember an object of this class."""
    found = _KINDS.get(cls)
    if found is None:
        found = _KINDS[cls] = _told(cls)
    return found


def _told(cls: type) -> str:
    if issubclass(cls, torch.Tensor):
        return "tensor"
    if issubclass(cls, np.ndarray):
        return "array"
    if issubclass(cls, types.MethodType):
        return "method"
    if issubclass(cls, (*_LEAVES, enum.Enum)) or cls.__module__.startswith(_OPAQUE):
        return "leaf"
    if issubclass(cls, _CONTAINERS):
        return "container"
    return "tuple" if issubclass(cls, tuple | frozenset) else "object"


def _refill(held: dict[str, object], before: dict[str, object]) -> None:
    if not _identical(held, before):
        held.clear()
        held.update(before)


def _give_back(container: Any, content: Any) -> None:
    if isinstance(container, dict):
        if _identical(container, content):
            return
        dict.clear(container)
        if isinstance(container, collections.OrderedDict):
            collections.OrderedDict.clear(container)
            for key, value in content.items():
                collections.OrderedDict.__setitem__(container, key, value)
        else:
            dict.update(container, content)
        return
    if len(container) == len(content) and all(map(is_, container, content)):
        return
    container.clear()
    if isinstance(container, set):
        container.update(content)
    else:
        container.extend(content)


def _identical(one: Any, other: Any) -> bool:
    """Same keys in the same order, same objects."""
    return len(one) == len(other) and [*one] == [*other] and all(map(is_, one.values(), other.values()))


def _restore_class(cls: type, content: dict[str, object]) -> None:
    now = vars(cls)
    if _identical(now, content):
        return
    for name, value in content.items():
        if now.get(name, _ABSENT) is not value and not name.startswith(("__weakref", "__dict__", "_abc_")):
            type.__setattr__(cls, name, value)
    for name in [name for name in now if name not in content]:
        if not name.startswith("__") or name in ("__call__", "__getattr__", "__setattr__"):
            type.__delattr__(cls, name)


def _has_bytes(tensor: torch.Tensor) -> bool:
    """Whether its values lie in a storage as they are."""
    plain = tensor.layout is torch.strided and not tensor.is_conj() and not tensor.is_neg()
    return plain and tensor.device.type != "meta" and tensor.untyped_storage().data_ptr() != 0


def _same_place(tensor: torch.Tensor, data: torch.Tensor) -> bool:
    return (
        tensor.device == data.device
        and tensor.dtype == data.dtype
        and tensor.shape == data.shape
        and tensor.stride() == data.stride()
        and tensor.data_ptr() == data.data_ptr()
    )


# --- the process ----------------------------------------------------------------------------------------


class ProcessState:
    """Torch's global settings, the configurations of its compiler, the default generators of the CPU, the
    environment, warning filters."""

    def __init__(self) -> None:
        self._settings = [
            (write, value) for read, write in SETTINGS if (value := _asked(read)) is not _ABSENT
        ]
        self._configs = [
            (module, module.get_config_copy()) for module in map(importlib.import_module, CONFIGS)
        ]
        self._generators = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self._environment = dict(os.environ)
        self._filters = list(warnings.filters)

    def restore(self) -> None:
        """All of it as it was."""
        for write, value in self._settings:
            write(value)
        for module, before in self._configs:
            now = module.get_config_copy()
            for name, value in before.items():
                if now.get(name, _ABSENT) != value:
                    setattr(module, name, value)
        python, numpy, cpu = self._generators
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if dict(os.environ) != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        if list(warnings.filters) != self._filters:
            warnings.filters[:] = self._filters  # type: ignore[index]


def _asked(read: Callable[[], object]) -> object:
    """A setting; absent where torch can't tell it (two ways of setting it were mixed)."""
    try:
        return read()
    except RuntimeError:
        return _ABSENT
