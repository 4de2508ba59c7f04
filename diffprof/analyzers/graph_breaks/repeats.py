"""Capture equal blocks once: which modules are the same, and a marker that stands for one of them.

A block may be left out of its parent's capture when it is sure to add nothing: its own capture is one graph
without breaks that writes to nothing, and the code compiled for one such block is valid for it. Candidates
are blocks of the same structure and inputs; that the code is valid, Dynamo's own guards tell. What the block
adds to the graph is then known: the same operations.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import types
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from diffprof.analyzers.graph_breaks.signature import Given, Signature, signature

MIN_MODULES = 4
"""Modules in a block. Smaller ones cost less to trace than to compare."""

MIN_SAVED = 24
"""Modules that need no tracing when equal blocks are folded; below, a capture of its own costs more."""


def fingerprint(module: torch.nn.Module, paths: frozenset[str] = frozenset()) -> str:
    """Hash of all that tracing a module's code can see, but the values of its tensors. Holds in this process.

    paths: of modules; one that a module keeps (as peft's layers do) does not make it another one.
    """
    return hashlib.sha256(repr(Structure(paths).of(module)).encode()).hexdigest()


class Structure:
    """Turns objects into nested tuples that are equal where Python code can't tell the objects apart.

    An object met a second time is named by its first place. How classes, functions and objects that can't be
    looked into are named is for subclasses to say; here it is by identity, so that the last equal nothing.
    """

    def __init__(self, paths: frozenset[str] = frozenset()) -> None:
        self._seen: dict[int, int] = {}
        self._alive: list[object] = []
        self._paths = paths

    def name(self, cls: type) -> Any:
        return (cls.__qualname__, id(cls))

    def function(self, function: types.FunctionType) -> Any:
        return id(function.__code__)

    def unknown(self, value: object) -> object:
        return id(value)

    def of(self, value: object) -> Any:
        """The tuple of an object."""
        if isinstance(value, str) and value in self._paths:
            return "a module's path"
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            return (type(value).__name__, repr(value))
        if isinstance(value, torch.dtype | torch.device | torch.Size | torch.layout):
            return repr(value)
        if id(value) in self._seen:
            return ("again", self._seen[id(value)])
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)  # an identity must not be used again
        if isinstance(value, torch.Tensor):
            geometry = (tuple(value.shape), value.stride() if value.layout is torch.strided else ())
            kind = (str(value.dtype), value.requires_grad, value.device.type)
            return (self.name(type(value)), kind, geometry)
        if isinstance(value, torch.nn.Module):
            return (self.name(type(value)), self.attributes(vars(value)))
        if isinstance(value, dict):
            return (self.name(type(value)), tuple((self.of(k), self.of(v)) for k, v in value.items()))
        if isinstance(value, set | frozenset):
            value = sorted(value, key=repr)
        if isinstance(value, list | tuple | deque):
            return (self.name(type(value)), tuple(self.of(v) for v in value))
        if isinstance(value, type):
            return ("class", self.name(value))
        return self._object(value)

    def _object(self, value: object) -> object:
        if isinstance(value, enum.Enum):
            return (self.name(type(value)), value.name)
        if isinstance(value, functools.partial):
            return ("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        if isinstance(value, types.MethodType):
            return ("method", self.of(value.__func__), self.of(value.__self__))
        if isinstance(value, types.FunctionType):
            cells = [cell.cell_contents for cell in value.__closure__ or () if _filled(cell)]
            given = (cells, value.__defaults__, value.__kwdefaults__)
            return ("function", self.function(value), self.of(given))
        if isinstance(value, types.BuiltinFunctionType) and _is_module_or_none(value.__self__):
            return ("builtin", value.__module__, value.__qualname__)
        if _is_all_attributes(value):
            return (self.name(type(value)), self.attributes(vars(value)))
        return ("object", self.unknown(value))

    def attributes(self, held: dict[str, Any]) -> tuple[object, ...]:
        """The tuple of an object's attributes."""
        found = []
        for name, value in held.items():
            # torch keeps hooks under numbers that are given out once in a process.
            hooks = isinstance(value, dict) and "hooks" in name and all(isinstance(k, int) for k in value)
            found.append((name, self.of(list(value.values()) if hooks else value)))
        return tuple(found)


class _Plain:
    """What a class takes that adds nothing to `object`."""


def _is_all_attributes(value: object) -> bool:
    """Whether its `__dict__` is all that an object holds: it has neither slots nor a part in C."""
    cls = type(value)
    has_slots = any(getattr(c, "__slots__", ()) for c in cls.__mro__)
    return hasattr(value, "__dict__") and not has_slots and cls.__basicsize__ <= _Plain.__basicsize__


def _is_module_or_none(value: object) -> bool:
    return value is None or isinstance(value, types.ModuleType)


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


@dataclass
class RepeatedModules:
    """Equal modules that were called alike. inputs: of one call; output: what that call returned."""

    modules: list[torch.nn.Module]
    inputs: Signature
    output: Signature

    @property
    def size(self) -> int:
        """Modules in one of them."""
        return _size(self.modules[0])


@dataclass
class SeenModule:
    """What one module was called with and returned; steady: every call of it was alike."""

    module: torch.nn.Module
    inputs: Signature
    output: Signature | None = None
    steady: bool = True


class Repeats:
    """Follows one call of a model, for `equal_blocks` to find the blocks in it that are the same."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seen: dict[int, SeenModule] = {}
        self._open: list[Signature] = []
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for module in _candidates(model):
            # Next to `forward`: after the module's own hooks on the way in, before them on the way out.
            before = module.register_forward_pre_hook(self._before, with_kwargs=True)
            after = module.register_forward_hook(self._after, with_kwargs=True, prepend=True)
            self._handles += [before, after]

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _before(self, module: torch.nn.Module, args: object, kwargs: object) -> None:
        given = signature((args, kwargs), values=False)
        seen = self.seen.get(id(module))
        if seen is None:
            self.seen[id(module)] = SeenModule(module, given, steady=_plain(given))
        elif seen.inputs.key != given.key:
            seen.steady = False

    def _after(self, module: torch.nn.Module, args: object, kwargs: object, output: object) -> None:
        seen = self.seen[id(module)]
        if seen.output is None:
            seen.output = signature(output, values=False)


def equal_blocks(
    seen: Iterable[SeenModule],
    paths: frozenset[str] = frozenset(),
    told_apart_by: Callable[[torch.nn.Module], object] | None = None,
) -> list[RepeatedModules]:
    """Groups of blocks that look equal and are worth folding, small ones first, so that the capture of a
    larger one meets the smaller ones folded. paths: of all modules. told_apart_by: of a block, what is the
    same for equal ones; without, its fingerprint. Call after Repeats is closed: hooks are part of that."""
    same = told_apart_by or (lambda module: fingerprint(module, paths))
    groups: dict[tuple[object, ...], RepeatedModules] = {}
    for each in seen:
        if not each.steady or each.output is None or not rebuildable(each.output):
            continue
        key = (same(each.module), each.inputs.key, each.output.key)
        groups.setdefault(key, RepeatedModules([], each.inputs, each.output)).modules.append(each.module)
    worth = [b for b in groups.values() if (len(b.modules) - 1) * b.size >= MIN_SAVED]
    return sorted(worth, key=lambda block: block.size)


def _candidates(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Submodules of a class that occurs at least twice, large enough to be worth it."""
    counts = Counter(type(m) for m in model.modules())
    for module in model.modules():
        if module is not model and counts[type(module)] > 1 and _size(module) >= MIN_MODULES:
            yield module


def _size(module: torch.nn.Module) -> int:
    return sum(1 for _ in module.modules())


def _plain(given: Signature) -> bool:
    """Only tensors and plain values: an object's state could differ between calls."""
    return all(
        x is None or isinstance(x, Given | bool | int | float | str | torch.dtype | torch.device)
        for x in given.leaves
    )


def rebuildable(output: Signature) -> bool:
    """A tensor, or a tuple of tensors and None: what markers can return."""
    if not any(isinstance(leaf, Given) for leaf in output.leaves):
        return False
    if not all(leaf is None or isinstance(leaf, Given) for leaf in output.leaves):
        return False
    return output.spec.is_leaf() or (
        output.spec.type is tuple and all(child.is_leaf() for child in output.spec.children())
    )


def markers(output: Signature) -> list[Callable[..., torch.Tensor]]:
    """Functions that Dynamo puts into the graph as one operation each; together they return the output."""
    return [marker(leaf) for leaf in output.leaves if isinstance(leaf, Given)]


def marker(like: Given) -> Callable[..., torch.Tensor]:
    """A function that is one operation of the graph and returns such a tensor."""

    def block(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device=tensors[0].device)

    return torch._dynamo.allow_in_graph(block)


def stand_in(output: Signature, put: list[Callable[..., torch.Tensor]]) -> Callable[..., object]:
    """A `forward` that applies the markers to the tensors among its arguments, and returns their results."""
    single = output.spec.is_leaf()
    tensor_at = [at for at, leaf in enumerate(output.leaves) if isinstance(leaf, Given)]
    nones = [None] * len(output.leaves)

    def forward(*args: object, **kwargs: object) -> object:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        tensors += [a for a in kwargs.values() if isinstance(a, torch.Tensor)]
        if single:
            return put[0](*tensors)
        made: list[object] = list(nones)
        for at, each in zip(tensor_at, put, strict=True):
            made[at] = each(*tensors)
        return tuple(made)

    return forward
