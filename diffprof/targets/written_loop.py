"""A denoising loop that a script writes out itself: models and a scheduler, no pipeline.

What follows the first call of a model is taken for a pipeline's call. A script can't be called twice from its
middle, so it goes on in its own thread while the probes look on from another.
"""

from __future__ import annotations

import functools
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from diffprof.model.callsite import is_machinery, stack, values_in
from diffprof.model.collection import living
from diffprof.model.errors import TargetError
from diffprof.model.pipeline import is_pipeline, replaced, role
from diffprof.model.recording import Unseen
from diffprof.targets.pipeline_call import PipelineCall


class ModelCalls:
    """The models that are called on the device from outside any other: class -> how often. begin: told once,
    at the first call for which it answers True."""

    def __init__(self, device: str, begin: Callable[[ModelCalls], bool] = lambda calls: False) -> None:
        self.device = device
        self.begin = begin
        self.begun = False
        self.called: dict[type, int] = {}
        self.held: dict[int, torch.nn.Module] = {}
        self._inside = threading.local()

    @property
    def repeated(self) -> bool:
        """Whether any was called more than once: a loop."""
        return any(count > 1 for count in self.called.values())

    def is_there(self, part: object) -> bool:
        """Whether it is a model on the device."""
        return isinstance(part, torch.nn.Module) and any(
            p.device.type == self.device for p in part.parameters()
        )

    @contextmanager
    def counted(self) -> Iterator[ModelCalls]:
        """The calls inside."""
        original = torch.nn.Module.__call__

        @functools.wraps(original)
        def call(module: torch.nn.Module, *args: object, **kwargs: object) -> Any:
            outer = getattr(self._inside, "now", False)
            if outer or self.begun:
                return original(module, *args, **kwargs)
            self._note(module, (*args, *kwargs.values()))
            self._inside.now = True
            try:
                return original(module, *args, **kwargs)
            finally:
                self._inside.now = False

        with replaced(torch.nn.Module, "__call__", call):
            yield self

    def _note(self, module: torch.nn.Module, given: tuple[object, ...]) -> None:
        # An offloaded model is on the CPU when it is called; what it is given is not.
        there = any(isinstance(each, torch.Tensor) and each.device.type == self.device for each in given)
        if there or self.is_there(module):
            self.held[id(module)] = module
            self.called[type(module)] = self.called.get(type(module), 0) + 1
            self.begun = self.begin(self)


def parts_in_reach(namespace: dict[str, object], called: dict[int, torch.nn.Module]) -> dict[str, Any]:
    """Models and schedulers by the names that the script has for them, in its globals, in the functions that
    run now, and one attribute or item below; called models that have no name by that of their class."""
    found: dict[str, object] = {}
    scopes = []
    for frame in stack():
        if not is_machinery(frame.f_code.co_filename):
            scopes.append(values_in(frame))
        if frame.f_code.co_name == "<module>" and frame.f_globals is namespace:
            break  # what called the script is none of its own
    for scope in (*scopes, namespace):
        for name, value in list(scope.items()):
            for label, each in ((name, value), *_inner(value)):
                if _is_part(each) and not any(each is known for known in found.values()):
                    found.setdefault(label, each)
    for module in called.values():
        if not any(module is known for known in found.values()):
            found.setdefault(type(module).__name__.lower(), module)
    return found


def _inner(value: object) -> list[tuple[str, object]]:
    if isinstance(value, dict):
        return [(name, each) for name, each in value.items() if isinstance(name, str)]
    if isinstance(value, torch.nn.Module | type | types.ModuleType) or is_pipeline(value):
        return []
    return list(getattr(value, "__dict__", {}).items())


def _is_part(value: object) -> bool:
    if isinstance(value, type) or is_pipeline(value):
        return False
    return isinstance(value, torch.nn.Module) or role("", value) == "scheduler"


def all_made(classes: dict[type, int]) -> bool:
    """Whether there is a model of each class already. A script that runs again makes its own classes again:
    they go by name."""
    made = {type(each).__qualname__ for each in living() if issubclass(type(each), torch.nn.Module)}
    return all(cls.__qualname__ in made for cls in classes)


NOTE = Unseen(
    what="the call",
    why="the script calls no pipeline: what it did from the first call of a model to its end is taken for "
    "one, and it ran twice for that",
    kind="note",
)


class Handover:
    """Lets `play` look on, in a thread of its own, while the script goes on in this one."""

    def __init__(self, play: Callable[[Any], Any]) -> None:
        self.play = play
        self.result: Any = None
        self.error: BaseException | None = None
        self._asked = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self, call: PipelineCall) -> None:
        """Start playing, up to the call. Its call is what this thread does from now on."""
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True, name="diffprof-play")
        self._thread.start()
        self._asked.wait()

    def _run(self, call: PipelineCall) -> None:
        try:
            self.result = self.play(call)
        except BaseException as error:
            self.error = error
        finally:
            self._asked.set()

    def call(self) -> None:
        """The call, in the thread that plays: it lasts until the script ends, and raises what that raised."""
        if self._asked.is_set():
            raise TargetError(
                "A loop that a script writes out runs once in a scan.",
                "For this, wrap it in a class with `components` and `__call__`, and scan a factory that "
                "returns it.",
            )
        self._asked.set()
        self._ended.wait()
        if self._failure is not None:
            raise self._failure

    def end(self, failure: BaseException | None) -> None:
        """The script has ended; let playing end too. Raises what that raises."""
        self._failure = failure
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self.error is not None:
            raise self.error


def as_pipeline(components: dict[str, object], code: types.CodeType, call: Callable[[], None]) -> Any:
    """What the probes take for a pipeline. code: of the script, whose frame a call's stack ends in."""

    def __call__(self: object) -> None:
        call()

    __call__.__wrapped__ = types.FunctionType(code, {})  # type: ignore[attr-defined]
    cls = type("LoopInScript", (), {"__call__": __call__})
    made: Any = cls()
    made.components = components
    return made
