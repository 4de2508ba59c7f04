"""The first pipeline call of a script, on whatever thread it is made, and those after it on its thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffprof.model.pipeline import Pipeline
from diffprof.targets.other_pipelines import GoOn

Take = Callable[[Any, tuple[Any, ...], dict[str, Any]], GoOn | None]


class Unwound(BaseException):
    """Leaves the script after its pipeline call was played. Not an Exception, so that scripts let it pass."""


class Interception:
    """State of one script's run. over: its pipeline call was met; done: it was played; error: what playing
    raised; thread: the one that called."""

    def __init__(self, take: Take) -> None:
        self.take = take
        self.over = False
        self.done = threading.Event()
        self.error: BaseException | None = None
        self.thread: threading.Thread | None = None
        self.originals: list[tuple[type, Any]] = []
        self._lock = threading.Lock()
        self._owner = threading.current_thread()
        self._goes_on = False

    def cover(self, cls: type) -> None:
        """Replace the `__call__` that a class itself defines."""
        call = vars(cls).get("__call__")
        if call is None or getattr(call, "_diffprof_wrapper", False):
            return

        @functools.wraps(call)
        def __call__(pipe: Pipeline, *args: Any, **kwargs: Any) -> Any:
            return self.meet(pipe, args, kwargs)

        __call__._diffprof_wrapper = True  # type: ignore[attr-defined]
        self.originals.append((cls, call))
        setattr(cls, "__call__", __call__)  # noqa: B010

    def uncover(self) -> list[type]:
        """Give all classes their own `__call__` back."""
        classes = [cls for cls, _ in self.originals]
        for cls, call in reversed(self.originals):
            setattr(cls, "__call__", call)  # noqa: B010
        self.originals.clear()
        return classes

    def meet(self, pipe: Pipeline, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Play the first call; leave the script after it, and again at any further call, unless it goes on:
        then a further call is played too."""
        here = threading.current_thread()
        with self._lock:
            first, self.over = not self.over, True
        if first:
            self.thread = here
        if first or (self._goes_on and here is self._owner):
            answer = self._taken(pipe, args, kwargs)
            self._goes_on = answer is not None and here is self._owner
            self.done.set()
            if answer is not None and self._goes_on:
                return answer.output
        raise Unwound

    def _taken(self, pipe: Pipeline, args: tuple[Any, ...], kwargs: dict[str, Any]) -> GoOn | None:
        # The call is made, and looked into, on classes as shipped; it may call inner pipelines.
        classes = self.uncover()
        try:
            return self.take(pipe, args, kwargs)
        except BaseException as error:
            # Kept, because the script may catch it on its way.
            self.error = error
            return None
        finally:
            for cls in classes:
                self.cover(cls)


@contextmanager
def intercepted(take: Take) -> Iterator[Interception]:
    """Inside, the first call of any pipeline, its class made already or not yet, goes to `take`, and further
    ones for as long as it says to go on."""
    interception = Interception(take)
    roots = _roots()
    hooks = [vars(root).get("__init_subclass__") for root in roots]
    for root in roots:
        _hook(root, interception)
        for cls in _family(root):
            interception.cover(cls)
    try:
        yield interception
    finally:
        interception.uncover()
        for root, hook in zip(roots, hooks, strict=True):
            if hook is None:
                del root.__init_subclass__
            else:
                root.__init_subclass__ = hook


def _roots() -> tuple[Any, ...]:
    from diffusers import DiffusionPipeline
    from diffusers.modular_pipelines.modular_pipeline import ModularPipeline

    return DiffusionPipeline, ModularPipeline


def _hook(root: Any, interception: Interception) -> None:
    inherited = root.__init_subclass__.__func__ if "__init_subclass__" in vars(root) else None

    def __init_subclass__(cls: Any, /, **kwargs: Any) -> None:
        if inherited is not None:
            inherited(cls, **kwargs)
        else:
            super(root, cls).__init_subclass__(**kwargs)
        interception.cover(cls)

    root.__init_subclass__ = classmethod(__init_subclass__)


def _family(root: type[Any]) -> Iterator[type[Any]]:
    yield root
    for cls in root.__subclasses__():
        yield from _family(cls)
