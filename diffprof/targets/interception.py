"""The pipeline calls of a script, on whatever threads they are made: one is played at a time."""

from __future__ import annotations

import functools
import os
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diffprof.model.pipeline import Pipeline, replaced
from diffprof.targets.held_pipelines import roots
from diffprof.targets.idle import LOOK_S, Idleness, busy_s, waits_itself
from diffprof.targets.other_pipelines import GoOn

STUCK_S = 2.0
"""Seconds after which a played call that only waits is taken to wait for one that it holds up."""

Take = Callable[[Any, tuple[Any, ...], dict[str, Any]], GoOn | None]


class Unwound(BaseException):
    """Leaves the script after its pipeline call was played. Not an Exception, so that scripts let it pass."""

    def __init__(self) -> None:
        super().__init__("the scan leaves the script here: the call that it looks at has been made")


def is_leaving(error: BaseException | None) -> bool:
    """Whether an error is one of leaving the script, or came while that was handled."""
    if error is None or isinstance(error, Unwound):
        return error is not None
    if isinstance(error, BaseExceptionGroup) and any(map(is_leaving, error.exceptions)):
        return True
    return is_leaving(error.__cause__) or is_leaving(error.__context__)


class Interception:
    """State of one script's run. over: a pipeline call of it was met; left: the script is to be left; coming:
    threads that wait for their turn, and see by themselves that it is; leavers: those that were told so by
    their own calls; error: what playing raised.

    A call is played on the classes as they are covered: what its own threads call passes, and what others
    call waits for its end, so that nothing of the script's runs beside it.
    """

    def __init__(self, take: Take) -> None:
        self.take = take
        self.over = False
        self.left = threading.Event()
        self.coming: set[threading.Thread] = set()
        self.leavers: set[threading.Thread] = set()
        self.error: BaseException | None = None
        self._originals: list[tuple[type, object]] = []
        self._covers: set[object] = set()
        self._turn = threading.Lock()
        self._own: set[threading.Thread] = set()
        self._is_child = False
        self._from_children, self._to_parent = os.pipe()

    def cover(self, cls: type) -> None:
        """Replace the `__call__` that a class itself defines."""
        call = vars(cls).get("__call__")
        if call is None or call in self._covers or getattr(call, "_diffprof_wrapper", False):
            return

        @functools.wraps(call)
        def __call__(pipe: Pipeline, *args: object, **kwargs: object) -> object:
            if threading.current_thread() in self._own:
                return call(pipe, *args, **kwargs)
            return self.meet(call, pipe, args, kwargs)

        self._covers.add(__call__)
        self._originals.append((cls, call))
        setattr(cls, "__call__", __call__)  # noqa: B010

    def uncover(self) -> None:
        """Give all classes their own `__call__` back."""
        for cls, call in reversed(self._originals):
            setattr(cls, "__call__", call)  # noqa: B010
        self._originals.clear()

    def meet(
        self, call: Callable[..., object], pipe: Pipeline, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> object:
        """Play a call, one after the other; leave the script after it, unless it goes on."""
        if self._is_child:
            os.write(self._to_parent, b"!")
            os._exit(0)
        here = threading.current_thread()
        self.coming.add(here)
        if self._comes_in():
            self.coming.discard(here)
            return call(pipe, *args, **kwargs)
        try:
            self.coming.discard(here)
            answer = None if self.left.is_set() else self._taken(pipe, args, kwargs)
            if answer is not None:
                return answer.output
            self.leave()
        finally:
            self._turn.release()
        raise Unwound

    def leave(self) -> None:
        """The script is to be left: by this thread, and by the others."""
        self.leavers.add(threading.current_thread())
        self.left.set()

    @property
    def playing(self) -> bool:
        """Whether a call is played now."""
        return self._turn.locked()

    def settle(self) -> None:
        """Wait until no call is played, if it is for the thread that plays one."""
        with self._turn:
            return

    def begins(self, thread: threading.Thread) -> None:
        """A thread is about to start: what one of the played call's own threads starts is its own."""
        if threading.current_thread() in self._own:
            self._own.add(thread)

    def _comes_in(self) -> bool:
        """Wait for the turn; True: the call that is played waits for this thread, which is its own from now
        on, without a turn."""
        idle = Idleness(lambda: busy_s([*self._own]))
        while not self._turn.acquire(timeout=LOOK_S):
            own = [*self._own]
            if not (own and all(map(waits_itself, own))):
                idle.waited_s = 0.0
            if idle.look() >= STUCK_S:
                self._own.add(threading.current_thread())
                return True
        return False

    def _taken(self, pipe: Pipeline, args: tuple[object, ...], kwargs: dict[str, object]) -> GoOn | None:
        self.over = True
        self._own.add(threading.current_thread())
        try:
            return self.take(pipe, args, kwargs)
        except BaseException as error:
            # Kept, because the script may catch it on its way.
            self.error = error
            return None
        finally:
            self._own.clear()

    def forked(self) -> None:
        """In a child process: what a played call forks goes on with classes as shipped, which a compiler that
        reads them expects. What the script forks is not scanned, and ends at a call, of which we are told."""
        if threading.current_thread() in self._own:
            self.uncover()
        else:
            self._is_child = True

    def called_in_child(self) -> bool:
        """Whether a child process of the script has come to a call."""
        return bool(select.select([self._from_children], [], [], 0)[0])

    def close(self) -> None:
        """All classes have their own calls back; children are not listened to any more."""
        self.uncover()
        os.close(self._from_children)
        os.close(self._to_parent)


_ACTIVE: list[Interception] = []


@functools.cache
def _add_hook() -> None:
    """Once: it can't be taken away."""

    def forked() -> None:
        for each in reversed(_ACTIVE):
            each.forked()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=forked)


@contextmanager
def intercepted(take: Take) -> Iterator[Interception]:
    """Inside, the first call of any pipeline, its class made already or not yet, goes to `take`, and further
    ones for as long as it says to go on."""
    interception = Interception(take)
    start = threading.Thread.start

    @functools.wraps(start)
    def begin(thread: threading.Thread) -> None:
        interception.begins(thread)
        start(thread)

    bases = roots()
    hooks = [vars(root).get("__init_subclass__") for root in bases]
    for root in bases:
        _hook(root, interception)
        for cls in _family(root):
            interception.cover(cls)
    _add_hook()
    _ACTIVE.append(interception)
    try:
        with replaced(threading.Thread, "start", begin):
            yield interception
    finally:
        _ACTIVE.remove(interception)
        interception.close()
        for root, hook in zip(bases, hooks, strict=True):
            if hook is None:
                del root.__init_subclass__
            else:
                root.__init_subclass__ = hook


def _hook(root: Any, interception: Interception) -> None:
    inherited = root.__init_subclass__.__func__ if "__init_subclass__" in vars(root) else None

    def __init_subclass__(cls: Any, /, **kwargs: object) -> None:
        if inherited is not None:
            inherited(cls, **kwargs)
        else:
            super(root, cls).__init_subclass__(**kwargs)
        interception.cover(cls)

    root.__init_subclass__ = classmethod(__init_subclass__)


def _family(root: type[object]) -> Iterator[type]:
    yield root
    for cls in root.__subclasses__():
        yield from _family(cls)
