"""What Python objects hold beside their tensors' values, taken at one moment, to compare and to put back.

A model may keep something from a call: a cached table, a counter, a dictionary that grows. Dynamo's guards
look at such state, so that a capture after the first call may see other code than the first call does.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import torch

from diffprof.analyzers.graph_breaks.repeats import Structure
from diffprof.analyzers.graph_breaks.storageless import has_own_state
from diffprof.model.callsite import importable_path


@dataclass(frozen=True)
class _Kind:
    """A sort of container. read: a copy of what it holds; write: puts a copy back."""

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]


class _Form(Structure):
    """Without empty registries of hooks: diffusers puts one on each model that it calls in a context."""

    def attributes(self, held: dict[str, object]) -> tuple[object, ...]:
        registry = held.get("_diffusers_hook")
        if registry is not None and not getattr(registry, "hooks", None):
            held = {name: value for name, value in held.items() if value is not registry}
        return super().attributes(held)


def _form(module: torch.nn.Module) -> int:
    return hash(_Form().of(module))


class PythonState:
    """Attributes of modules, of what these hold, and variables of their functions' closures; of code that is
    the user's own also plain attributes of classes and plain globals. Objects with slots are passed over."""

    def __init__(self, roots: Iterable[object]) -> None:
        self._roots = list(roots)
        self._held: dict[tuple[_Kind, int], tuple[Any, Any]] = {}
        self._seen: dict[int, Any] = {}
        pending = list(self._roots)
        while pending:
            value = pending.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value  # an identity must not be used again
                pending += self._taken(value)
        modules = (root for root in self._roots if isinstance(root, torch.nn.Module))
        self._forms = {id(module): _form(module) for module in modules}

    def changed(self, root: torch.nn.Module) -> bool:
        """Whether code of a module among the roots can tell its present state from the one taken, by anything
        but the values of tensors."""
        return _form(root) != self._forms[id(root)] or self._names_changed(root)

    def _names_changed(self, root: torch.nn.Module) -> bool:
        """Whether it reaches a class that has changed, a global that has by its name, or what one of these
        holds."""
        differing = [key for key in self._held if self._differs(key)]
        if not differing:
            return False
        reached = PythonState([root])
        classes = [container for (kind, _), (container, _) in reached._held.items() if kind is _CLASS]
        read = {name for cls in classes for f in _functions(cls) for name in _names(f.__code__)}
        spaces = [held for (kind, _), (held, _) in reached._held.items() if kind is _GLOBALS]
        named = [value for held in spaces for name, value in _plain_names(held).items() if name in read]
        within = PythonState(
            [*named, *(value for cls in classes for value in _plain_names(vars(cls)).values())]
        )
        for key in differing:
            container, saved = self._held[key]
            if key[0] is _GLOBALS:
                now = key[0].read(container)
                found = key in reached._held and any(saved.get(name) is not now.get(name) for name in read)
            else:
                found = key in (reached if key[0] is _CLASS else within)._held
            if found:
                return True
        return False

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Everything is as it was while the context is open."""
        now = PythonState(self._roots)
        self.restore()
        try:
            yield
        finally:
            now.restore()

    def restore(self) -> None:
        """Put back what is no longer as it was."""
        for key, (container, saved) in self._held.items():
            if self._differs(key):
                key[0].write(container, saved)

    def _differs(self, key: tuple[_Kind, int]) -> bool:
        container, saved = self._held[key]
        now = key[0].read(container)
        if isinstance(saved, dict):
            return list(saved) != list(now) or any(saved[name] is not now[name] for name in saved)
        if isinstance(saved, set):
            return bool(saved != now)
        return len(saved) != len(now) or any(a is not b for a, b in zip(saved, now, strict=True))

    def _taken(self, value: object) -> Iterator[object]:
        """Keep what an object holds; the objects to go on with."""
        for kind, container in _containers(value):
            saved = kind.read(container)
            self._held[kind, id(container)] = (container, saved)
            yield from saved.values() if isinstance(saved, dict) else saved
        if isinstance(value, tuple):
            yield from value
        elif isinstance(value, MethodType):
            yield from (value.__self__, value.__func__)
        elif isinstance(value, functools.partial):
            yield from (value.func, value.args, value.keywords)
        elif isinstance(value, FunctionType):
            yield from value.__closure__ or ()


def _containers(value: object) -> Iterator[tuple[_Kind, object]]:
    for cls, kind in _KINDS.items():
        if isinstance(value, cls):
            yield kind, value
            return
    if isinstance(value, FunctionType):
        yield from _globals(value)
    elif has_own_state(value):
        yield _DICT, vars(value)
        for base in type(value).__mro__:
            for own in [g for f in _functions(base) for g in _globals(f)][:1]:
                yield from (own, (_CLASS, base))


def _functions(cls: type) -> list[FunctionType]:
    return [f for f in vars(cls).values() if isinstance(f, FunctionType)]


def _names(code: CodeType) -> Iterator[str]:
    """What a function's code, and those made in it, name."""
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _globals(function: FunctionType) -> Iterator[tuple[_Kind, object]]:
    """The globals of a function that is the user's own."""
    if _is_own(function.__code__.co_filename):
        yield _GLOBALS, function.__globals__


@functools.cache
def _is_own(file: str) -> bool:
    return importable_path(file)[1]


# --- kinds of containers -------------------------------------------------------------------------------


def _write_list(held: Any, saved: list[Any]) -> None:
    held.clear()
    held.extend(saved)


def _write_names(held: Any, saved: Any) -> None:
    held.clear()
    held.update(saved)


def _read_cell(cell: CellType) -> list[object]:
    try:
        return [cell.cell_contents]
    except ValueError:  # an empty one
        return []


def _write_cell(cell: CellType, saved: list[object]) -> None:
    if saved:
        cell.cell_contents = saved[0]
    else:
        del cell.cell_contents


def _plain_names(held: Any) -> dict[str, object]:
    return {
        name: value
        for name, value in held.items()
        if not name.startswith("__")
        and isinstance(value, bool | int | float | str | dict | list | set | None)
    }


def _write_class(cls: type, saved: dict[str, object]) -> None:
    for name in _plain_names(vars(cls)).keys() - saved.keys():
        delattr(cls, name)
    for name, value in saved.items():
        setattr(cls, name, value)


def _write_globals(held: dict[str, object], saved: dict[str, object]) -> None:
    for name in _plain_names(held).keys() - saved.keys():
        del held[name]
    held.update(saved)


_DICT = _Kind(dict, _write_names)
_CLASS = _Kind(lambda cls: _plain_names(vars(cls)), _write_class)
_GLOBALS = _Kind(_plain_names, _write_globals)
_KINDS = {
    dict: _DICT,
    list: _Kind(list, _write_list),
    deque: _Kind(list, _write_list),
    set: _Kind(set, _write_names),
    CellType: _Kind(_read_cell, _write_cell),
}
