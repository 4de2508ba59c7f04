"""What a module's forward could read beside its arguments, and whether it is still what it was.

Followed are attributes, containers, processors, hooks, closures, classes, and the globals of the files they
come from. Tensors are compared by geometry and by whether their values are known, known ones by value as
well. Nothing keeps a tensor alive that the pipeline lets go.
"""

from __future__ import annotations

import enum
import functools
import logging
import pathlib
import re
import sys
import types
import typing
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import numpy as np
import torch

from diffprof.model.callsite import importable_path, is_machinery

from .session import SESSION
from .tensor import SimTensor

SMALL = 1 << 20
"""Bytes up to which known values are compared, where nothing else tells that they changed."""

_LRU = type(functools.lru_cache(lambda: None))
_ATOMS: frozenset[type] = frozenset(
    {
        *(int, float, complex, str, bytes, bool, range, slice, type(None), type(...), type(NotImplemented)),
        *(types.ModuleType, types.CodeType, types.GenericAlias, types.UnionType),
        *(types.WrapperDescriptorType, types.MethodDescriptorType, types.GetSetDescriptorType),
        *(
            types.MappingProxyType,
            types.MemberDescriptorType,
            types.MethodWrapperType,
            types.ClassMethodDescriptorType,
        ),
        *(torch.dtype, torch.device, torch.layout, torch.memory_format, weakref.ref, np.dtype, re.Pattern),
        type(__import__("threading").Lock()),
        type(__import__("threading").RLock()),
    }
)
_ATOM_BASES = (enum.Enum, logging.Logger, logging.LoggerAdapter, pathlib.PurePath, np.generic, torch.finfo)
_LASTING = (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)
"""What a global may be kept alive by: what it holds is no tensor."""
_CONTAINERS = frozenset({dict, OrderedDict, list, set, tuple, frozenset})
_SEQUENCES = (list, tuple, set, frozenset, deque)
_PICK = itemgetter.__call__
_UNREAD = frozenset(
    {
        *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks"),
        *("_load_state_dict_post_hooks", "_non_persistent_buffers_set", "_is_full_backward_hook"),
        *("_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_forward_pre_hooks_with_kwargs"),
    }
)
"""Of a module: for its states and for its gradients, and what is said of hooks, which means nothing without
one (torch/nn/modules/module.py)."""


class Unreadable(Exception):
    """Why it can't be told whether a state has changed: what holds it."""


class HeldState:
    """The state that a module's forward could read, as it was when this was made. Raises Unreadable."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._seen: dict[int, Any] = {}
        self._empty: list[Collection[Any]] = []
        self._full: list[Collection[object]] = []
        self._mixed: list[dict[str, object]] = []
        self._modules: list[dict[str, object]] = []
        self._picked: list[dict[str, object]] = []
        self._picks: list[itemgetter[object]] = []
        """What is looked at of each that is picked from: attributes of modules, globals of files."""
        self._asked: list[Callable[[], object]] = []
        self._files: set[str] = set()
        self._pending: list[Any] = [module, *_global_hooks()]
        while self._pending:
            self._follow(self._pending.pop())
            if not self._pending:
                self._follow_globals()
        self._things = list(self._held_things())
        self._told = self._read()
        self._ids, self._exactly = list(map(id, self._beside())), list(map(exactly, self._beside()))
        self._kept = [thing for thing in self._beside() if not isinstance(thing, torch.Tensor)]
        """So that no other takes their numbers."""
        self._changes, self._tensors = SESSION.changes, self._read_tensors()
        beside = enumerate(self._beside())
        self._known = [(place, tensor_state(thing)) for place, thing in beside if _has_values(thing)]
        """By place: PyTorch moves no parameter between devices that a weak reference names."""

    def unchanged(self) -> bool:
        """Whether all of it is as it was."""
        if any(self._empty) or self._told != self._read():
            return False
        beside = list(self._beside())
        if self._ids != list(map(id, beside)) and self._exactly != list(map(exactly, beside)):
            return False
        if not self._tensors_unchanged(beside):
            return False
        try:
            same = all(map(is_, self._held_things(), self._things))
            return same or all(map(_equal, self._held_things(), self._things))
        except KeyError:  # an attribute went, and another came
            return False

    def _held_things(self) -> Iterator[object]:
        some = chain.from_iterable(map(_PICK, self._picks, self._picked))
        return chain(chain.from_iterable(self._full), some)

    def _read(self) -> list[object]:
        """What is compared by value: answers, sizes, and names of tensors and of what stands beside them."""
        told = [ask() for ask in self._asked]
        told += map(len, chain(self._full, self._modules))
        told += chain.from_iterable(self._mixed)
        return told

    def _beside(self) -> Iterator[object]:
        """Tensors, and what stands beside them."""
        return chain.from_iterable(held.values() for held in self._mixed)

    def _read_tensors(self) -> list[object]:
        tensors = [thing for thing in self._beside() if isinstance(thing, torch.Tensor)]
        for thing in tensors:
            if type(thing) is SimTensor:
                thing._cell.held = True
        return [tensor_state(thing) for thing in tensors]

    def _tensors_unchanged(self, beside: Sequence[object]) -> bool:
        """Those with unknown values are looked at again only where any tensor was changed."""
        if self._changes != SESSION.changes:
            if self._tensors != self._read_tensors():
                return False
            self._changes = SESSION.changes
        return all(state == tensor_state(beside[place]) for place, state in self._known)

    # --- what is held ---------------------------------------------------------------------------------

    def _follow(self, thing: Any) -> None:
        kind = type(thing)
        if kind in _ATOMS or id(thing) in self._seen or isinstance(thing, _ATOM_BASES) or _ours(thing):
            return
        if isinstance(thing, torch.Tensor):
            raise Unreadable("a tensor outside of modules")
        self._seen[id(thing)] = thing
        if isinstance(thing, type):
            self._follow_class(thing)
        elif isinstance(thing, types.FunctionType):
            self._follow_function(thing)
        elif isinstance(thing, types.MethodType):
            self._pending += (thing.__self__, thing.__func__)
        elif isinstance(thing, types.BuiltinFunctionType):
            self._pending.append(thing.__self__)
        elif isinstance(thing, functools.partial):
            self._pending += (thing.func, thing.args, thing.keywords)
        elif isinstance(thing, (staticmethod, classmethod)):
            self._pending.append(thing.__func__)
        elif isinstance(thing, property):
            self._pending += (thing.fget, thing.fset)
        elif kind is _LRU:
            self._asked.append(lambda: thing.cache_info()[1:])
        elif isinstance(thing, np.ndarray):
            self._asked.append(functools.partial(_bytes_of, thing))
        elif not typing.get_origin(thing):
            self._follow_object(thing)

    def _follow_object(self, thing: Any) -> None:
        is_module = isinstance(thing, torch.nn.Module)
        own = getattr(thing, "__dict__", None)
        kind: type = type(thing)
        slots = _slots(kind)
        if isinstance(thing, dict):
            self._hold(thing)
        elif isinstance(thing, _SEQUENCES):
            self._hold_sequence(thing)
        elif own is None and not slots:
            raise Unreadable(f"a {type(thing).__name__}")
        if isinstance(own, dict):
            self._hold(own, of_module=is_module)
            if is_module:
                self._hold(thing._parameters, of_module=True)
                self._hold(thing._buffers, of_module=True)
        if slots:
            self._asked.append(lambda: [exactly(getattr(thing, name, None)) for name in slots])
            self._pending += (getattr(thing, name, None) for name in slots)
        self._pending.append(type(thing))

    def _hold(self, held: dict[Any, Any], *, of_module: bool = False) -> None:
        """of_module: whether it belongs to a module, and lives as long."""
        self._seen[id(held)] = held
        if not held:
            self._empty.append(held)
        elif of_module and "_parameters" in held:
            self._hold_module(held)
        elif any(isinstance(value, torch.Tensor) for value in held.values()):
            if not of_module:
                raise Unreadable("tensors in a dict")
            self._mixed.append(held)
            self._await(value for value in held.values() if not isinstance(value, torch.Tensor))
        else:
            self._full += (held.keys(), held.values())
            self._await(held.values())

    def _hold_module(self, held: dict[str, Any]) -> None:
        """Attributes of a module. Most are its own empty tables of hooks: as long as these are empty they are
        not looked at one by one."""
        names, mixed = [], False
        for name, value in held.items():
            kind = type(value)
            if name in _UNREAD and not value:
                continue
            if kind in _ATOMS:
                names.append(name)
            elif kind in _CONTAINERS and not value:
                self._empty.append(value)
            elif isinstance(value, torch.Tensor):
                names.append(name)
                mixed = True
            else:
                names.append(name)
                if id(value) not in self._seen:
                    self._pending.append(value)
        if mixed:
            self._mixed.append(held)
        else:
            self._modules.append(held)
            self._pick(held, names)

    def _pick(self, held: dict[str, object], names: Sequence[str]) -> None:
        if names:
            self._picked.append(held)
            self._picks.append(itemgetter(*names, names[0]))  # a tuple, of one as well

    def _hold_sequence(self, held: Collection[object]) -> None:
        if held:
            self._full.append(held)
            self._await(held)
        else:
            self._empty.append(held)

    def _await(self, things: Iterable[Any]) -> None:
        """To be followed; most are empty, and there are tens of thousands."""
        for thing in things:
            kind = type(thing)
            if kind in _ATOMS:
                continue
            if kind in _CONTAINERS and not thing:
                self._empty.append(thing)
            elif id(thing) not in self._seen:
                self._pending.append(thing)

    def _follow_function(self, function: types.FunctionType) -> None:
        self._files.add(function.__module__)
        cells = function.__closure__ or ()
        self._asked.append(lambda: [exactly(_content(cell)) for cell in cells])
        self._pending += map(_content, cells)
        self._pending += (function.__defaults__, function.__kwdefaults__, function.__dict__)

    def _follow_class(self, cls: type) -> None:
        for base in cls.__mro__[:-1]:
            self._seen[id(base)] = base
            if is_machinery(_file_of(base.__module__)):
                continue
            self._files.add(base.__module__)
            self._full += (vars(base).keys(), vars(base).values())
            own = _is_own(base.__module__)
            self._pending += (v for v in vars(base).values() if own or type(v) in (_LRU, dict, list, set))

    def _follow_globals(self) -> None:
        """Of files that were not followed yet: names, and what one's own code keeps there."""
        files, self._files = self._files, set()
        for name in files:
            held = vars(sys.modules[name]) if name in sys.modules else {}
            if id(held) in self._seen or is_machinery(_file_of(name)):
                continue
            self._seen[id(held)] = held
            own = _is_own(name)
            values = {k: v for k, v in held.items() if not k.startswith("__")}
            lasting = [k for k, v in values.items() if type(v) in _ATOMS or isinstance(v, _LASTING)]
            self._pick(held, lasting)
            self._asked.append(functools.partial(_read_names, held, tuple(values.keys() - set(lasting))))
            self._pending += (v for v in values.values() if type(v) is _LRU or (own and _is_state(v)))


def _read_names(held: dict[str, object], names: tuple[str, ...]) -> list[object]:
    return [exactly(held.get(name)) for name in names]


def _is_state(value: object) -> bool:
    """Whether a global is neither a library's, nor a class or function, which are followed where used."""
    return not isinstance(value, (type, types.FunctionType, torch.nn.Module, torch.Tensor))


def _global_hooks() -> Iterator[dict[object, object]]:
    held = vars(torch.nn.modules.module)
    yield from (value for name, value in held.items() if "hooks" in name and isinstance(value, dict))


def _ours(thing: object) -> bool:
    of = thing if isinstance(thing, (types.FunctionType, type)) else type(thing)
    return (getattr(of, "__module__", None) or "").startswith("diffprof.")


@functools.cache
def _file_of(module: str) -> str:
    return getattr(sys.modules.get(module), "__file__", None) or "<unknown>"


@functools.cache
def _is_own(module: str) -> bool:
    return importable_path(_file_of(module))[1]


@functools.cache
def _slots(cls: type) -> tuple[str, ...]:
    found: list[str] = []
    for base in cls.__mro__:
        own = vars(base).get("__slots__", ())
        found += (own,) if isinstance(own, str) else own
    return tuple(name for name in found if not name.startswith("__"))


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def exactly(thing: object) -> object:
    """Equal for one value of one type, as 1, 1.0 and True are not, nor 0.0 and -0.0, but any two NaN are; of
    anything that is no plain value, which object it is."""
    kind = type(thing)
    if isinstance(thing, (int, str, bytes, torch.device)):
        return kind, thing
    if isinstance(thing, float):
        return kind, thing.hex()
    if isinstance(thing, complex):
        return kind, thing.real.hex(), thing.imag.hex()
    if isinstance(thing, tuple):
        return kind, *map(exactly, thing)
    return id(thing)


def _equal(one: object, other: object) -> bool:
    return one is other or exactly(one) == exactly(other)


def _has_values(thing: object) -> bool:
    if type(thing) is SimTensor:
        return thing._cell.known
    return isinstance(thing, torch.Tensor) and thing.device.type != "meta"


def tensor_state(t: torch.Tensor) -> tuple[object, ...]:
    """What can be told of a tensor without a read: equal as long as nothing changed it. Raises Unreadable."""
    if type(t) is SimTensor:
        cell = t._cell
        return id(t), id(cell), id(t._meta), cell.epoch, cell.known, cell.writes, id(cell.guess)
    return id(t), t.shape, t.dtype, None if t.device.type == "meta" else _values_state(t)


def _values_state(t: torch.Tensor) -> object:
    if not t.is_inference():
        return id(t), t._version
    return values_of(t)


def values_of(t: torch.Tensor) -> bytes:
    """The bytes of a CPU tensor. Raises Unreadable for a large one."""
    if t.nbytes > SMALL or t.layout is not torch.strided:
        raise Unreadable(f"a tensor of {t.nbytes} bytes")
    whole = t.detach().clone(memory_format=torch.contiguous_format).reshape(-1)
    return whole.view(torch.uint8).numpy().tobytes()


def _bytes_of(array: np.ndarray[Any, Any]) -> tuple[object, ...]:
    if array.nbytes > SMALL or array.dtype.hasobject:
        raise Unreadable(f"an array of {array.nbytes} bytes")
    return array.shape, array.dtype, array.tobytes()
