"""The pipelines that a script makes, wherever it holds them: by name, in an object, a table or a closure."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple

from diffprof.model.callsite import Place, function_name, importable_path, is_machinery, make_site, stack
from diffprof.model.pipeline import is_pipeline, replaced
from diffprof.model.recording import Site

DEEPEST = 5
"""Attributes and items below a name that are looked into."""

MOST = 20_000
"""Objects that are looked at."""

_REGISTERING = ("register_modules", "register_components")
"""What a pipeline's constructor is given its parts by."""


def roots() -> tuple[Any, ...]:
    """What every pipeline of diffusers descends from."""
    from diffusers import DiffusionPipeline
    from diffusers.modular_pipelines.modular_pipeline import ModularPipeline

    return DiffusionPipeline, ModularPipeline


class Made(NamedTuple):
    """A pipeline that a script has made. by: the script's lines that stood above, innermost first; turn: how
    many were made before it."""

    pipe: weakref.ref[Any]
    by: tuple[Place, ...]
    turn: int


class MadePipelines:
    """What a script makes of pipelines. namespace: of its `__main__`. watching: whether it is the script that
    makes them now. count: how many it has made."""

    def __init__(self, namespace: dict[str, object]) -> None:
        self.namespace = namespace
        self.watching = True
        self.count = 0
        self._made: dict[int, Made] = {}

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Those that are made inside."""
        with ExitStack() as undo:
            for root in roots():
                for name in _REGISTERING:
                    if name in vars(root):
                        undo.enter_context(replaced(root, name, self._noting(vars(root)[name])))
            yield

    def _noting(self, register: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(register)
        def noting(pipe: object, *args: object, **kwargs: object) -> object:
            if self.watching and self.how(pipe) is None:
                self._made[id(pipe)] = Made(weakref.ref(pipe), self._own_places(), self.count)
                self.count += 1
            return register(pipe, *args, **kwargs)

        return noting

    def how(self, pipe: object) -> Made | None:
        """How it was made; None of one that the script has not made."""
        known = self._made.get(id(pipe))
        return known if known is not None and known.pipe() is pipe else None

    def _own_places(self) -> tuple[Place, ...]:
        frames = (frame for frame in script_frames(self.namespace) if is_own(frame.f_code.co_filename))
        return tuple((frame.f_code.co_filename, frame.f_lineno, function_name(frame)) for frame in frames)

    def there(self) -> list[object]:
        """Those that are there still, in the order in which they were made."""
        return [pipe for each in self._made.values() if (pipe := each.pipe()) is not None]

    def site(self, pipe: object) -> Site | None:
        """The line of the script that made it."""
        known = self.how(pipe)
        return make_site(known.by, None) if known is not None and known.by else None


def script_frames(
    namespace: dict[str, object], innermost: types.FrameType | None = None
) -> Iterator[types.FrameType]:
    """The frames of a script's code and of what it calls on this thread, or from `innermost` on: innermost
    first. What has called the script is none of its own."""
    for frame in stack() if innermost is None else _upwards(innermost):
        yield frame
        if frame.f_code.co_name == "<module>" and frame.f_globals is namespace:
            return


def _upwards(frame: types.FrameType | None) -> Iterator[types.FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


@functools.cache
def is_own(file: str) -> bool:
    """Whether a file is a person's own, and of no library."""
    return not is_machinery(file) and importable_path(file)[1]


def parts_of(pipes: Iterable[Any]) -> dict[int, object]:
    """Pipelines with all that they hold themselves, other pipelines with theirs: by id."""
    found: dict[int, object] = {}
    waiting = [*pipes]
    while waiting:
        pipe = waiting.pop()
        if id(pipe) in found:
            continue
        found[id(pipe)] = pipe
        if is_pipeline(pipe):
            with suppress(Exception):  # it may be half made
                waiting += pipe.components.values()
            waiting += [each for each in vars(pipe).values() if _has_parts(each)]
    return found


def _has_parts(value: object) -> bool:
    return not isinstance(value, type) and callable(value) and _is_pipeline(value)


def in_reach(scopes: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, object]]:
    """(name, pipeline) for what can be reached from names: `pipe`, `service.pipes['base']`. The nearest
    first; no property is read."""
    seen: set[int] = set()
    waiting = deque((name, value, 0) for scope in scopes for name, value in list(scope.items()))
    while waiting and len(seen) < MOST:
        name, value, depth = waiting.popleft()
        if id(value) in seen or isinstance(value, _PLAIN):
            continue
        seen.add(id(value))
        if _has_parts(value):
            yield name, value
        elif depth < DEEPEST:
            waiting += [(f"{name}{path}", each, depth + 1) for path, each in _held(value)]


_PLAIN = (str, bytes, bytearray, int, float, complex, type(None))


def _is_pipeline(value: object) -> bool:
    with suppress(Exception):  # asking it may run its code
        return is_pipeline(value)
    return False


def _held(value: object) -> list[tuple[str, object]]:
    """(path, value) of what an object holds, as its own code would write the path."""
    if isinstance(value, dict):
        return [(f"[{key!r}]", each) for key, each in list(value.items()) if isinstance(key, str | int)]
    if isinstance(value, list | tuple | set | frozenset | deque):
        return [(f"[{number}]", each) for number, each in enumerate(list(value))]
    if isinstance(value, functools.partial):
        held = {str(number): each for number, each in enumerate(value.args)} | value.keywords
        return [*((f"({name})", each) for name, each in held.items()), ("", value.func)]
    if isinstance(value, types.MethodType):
        return [("", value.__self__)]
    if isinstance(value, types.FunctionType):
        return _of_function(value)
    if isinstance(value, types.ModuleType):
        file = getattr(value, "__file__", None)
        return _attributes(vars(value)) if file and is_own(file) else []
    if isinstance(value, type):
        return _attributes(vars(value)) if is_own_class(value) else []
    if hasattr(type(value), "named_modules"):
        return []
    slots = {name: getattr(value, name, None) for name in _slots(type(value))}
    return _attributes({**slots, **(getattr(value, "__dict__", None) or {})})


def _slots(cls: type) -> list[str]:
    named = (vars(each).get("__slots__", ()) for each in cls.__mro__ if is_own_class(each))
    return [name for names in named for name in ((names,) if isinstance(names, str) else names)]


def is_own_class(cls: type) -> bool:
    """Whether a class is of a person's own file."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return file is not None and is_own(file)


def _attributes(names: Mapping[str, object]) -> list[tuple[str, Any]]:
    return [(f".{name}", each) for name, each in list(names.items()) if not name.startswith("__")]


def _of_function(function: types.FunctionType) -> list[tuple[str, object]]:
    """What a function of a person's own has closed over, and its arguments' defaults."""
    if not is_own(function.__code__.co_filename):
        return []
    found: list[tuple[str, object]] = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not filled yet
            found.append((f".{name}", cell.cell_contents))
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    return found + [(f"({number})", each) for number, each in enumerate(defaults)]
