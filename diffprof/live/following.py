"""Follow the calls of one live pipeline: what it encodes, each denoising step, what it decodes.

Only this pipeline and its own parts are changed, by classes of their own that have the same names, and all of
it is taken back. No module gets a hook: compiled parts stay compiled. What belongs to a call is told by the
context that it runs in, so that calls in several threads and tasks are told apart.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from contextvars import ContextVar
from typing import Any, Protocol

from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline, components, role
from diffprof.targets.pipeline import step_methods

STAGES = {"encode": ("encode_", "_encode_"), "decode": ("decode_latents",)}
"""Stage -> how methods of a pipeline begin that are it."""


class Follower(Protocol):
    """Told what happens in one call."""

    def enter(self) -> None:
        """A stage other than a step begins."""

    def leave(self, stage: str) -> None:
        """It ends. Stages may nest."""

    def loop(self) -> None:
        """A denoising loop is about to begin: the scheduler got its timesteps."""

    def stepped(self) -> None:
        """A denoising step ended, with the scheduler's part of it."""


_CALL: ContextVar[tuple[object, Follower] | None] = ContextVar("diffprof_call", default=None)

Around = Callable[[Callable[[], Any]], Any]
Tell = Callable[[Callable[..., Any]], Callable[..., Any]]
"""From a function to one that tells the follower as well."""


class Following:
    """A pipeline that is followed until `close`.

    around: makes each call of the pipeline; what it is given makes the call itself. Raises UsageError for a
    pipeline that is followed already, or can't be.
    """

    def __init__(self, pipe: Pipeline, around: Around) -> None:
        if getattr(type(pipe), "_diffprof_follows", False):
            raise UsageError("The pipeline is watched already.", "Close the other watch first.")
        self._undo = ExitStack()
        try:
            self._follow(pipe, around)
        except BaseException:
            self._undo.close()
            raise

    def close(self) -> None:
        """The pipeline is as it was."""
        self._undo.close()

    def call(self, follower: Follower, made: Callable[[], object]) -> Any:
        """Make a call, told to a follower."""
        token = _CALL.set((self, follower))
        try:
            return made()
        finally:
            _CALL.reset(token)

    def _follow(self, pipe: Pipeline, around: Around) -> None:
        call = type(pipe).__call__

        @functools.wraps(call)
        def called(this: Any, *args: object, **kwargs: object) -> object:
            made = functools.partial(call, this, *args, **kwargs)
            return around(made) if this is pipe else made()

        called._diffprof_wrapper = True  # type: ignore[attr-defined]  # a script's interception passes it by
        methods = {
            name: self._stage(getattr(type(pipe), name), stage)
            for stage, starts in STAGES.items()
            for name in dir(type(pipe))
            if name.startswith(starts) and callable(getattr(type(pipe), name))
        }
        self._change_class(pipe, {**methods, "__call__": called, "_diffprof_follows": True})
        for name, part in components(pipe).items():
            self._follow_part(role(name, part), part)
        for part in list(vars(pipe).values()):
            for method in ("postprocess", "postprocess_video"):
                if callable(getattr(part, method, None)):
                    self._change_attribute(part, method, functools.partial(self._stage, stage="postprocess"))

    def _follow_part(self, what: str, part: object) -> None:
        if what == "scheduler":
            told = dict.fromkeys(step_methods(part), self._step)
            if callable(getattr(part, "set_timesteps", None)):
                told["set_timesteps"] = self._loop
            own = {name: tell for name, tell in told.items() if name in vars(part)}
            cls = type(part)
            self._change_class(part, {n: tell(getattr(cls, n)) for n, tell in told.items() if n not in own})
            for name, tell in own.items():
                self._change_attribute(part, name, tell)
        elif what == "vae":
            self._change_attribute(part, "decode", functools.partial(self._stage, stage="decode"))

    # --- what is told -------------------------------------------------------------------------------------

    def _told(self) -> Follower | None:
        """Who follows the call that runs in this context, if it is one of this pipeline."""
        current = _CALL.get()
        return current[1] if current is not None and current[0] is self else None

    def _stage(self, original: Callable[..., object], stage: str) -> Callable[..., Any]:
        @functools.wraps(original)
        def wrapped(*args: object, **kwargs: object) -> object:
            if (follower := self._told()) is None:
                return original(*args, **kwargs)
            follower.enter()
            try:
                return original(*args, **kwargs)
            finally:
                follower.leave(stage)

        return wrapped

    def _step(self, original: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(original)
        def wrapped(*args: object, **kwargs: object) -> object:
            made = original(*args, **kwargs)
            if (follower := self._told()) is not None:
                follower.stepped()
            return made

        return wrapped

    def _loop(self, original: Callable[..., object]) -> Callable[..., object]:
        @functools.wraps(original)
        def wrapped(*args: object, **kwargs: object) -> object:
            made = original(*args, **kwargs)
            if (follower := self._told()) is not None:
                follower.loop()
            return made

        return wrapped

    # --- how it is changed --------------------------------------------------------------------------------

    def _change_class(self, thing: object, members: Mapping[str, object]) -> None:
        """Give one object a class of its own, of the same name: a copy of the object keeps it."""
        own = type(thing)
        names = {"__module__": own.__module__, "__qualname__": own.__qualname__}
        metaclass: Any = type(own)
        changed = metaclass(own.__name__, (own,), {**names, **members})
        try:
            thing.__class__ = changed
        except TypeError as error:
            raise UsageError(
                f"A {own.__name__} can't be watched: {error}.", "Watch another pipeline."
            ) from error
        self._undo.callback(_give_back, thing, changed, own)

    def _change_attribute(self, thing: object, name: str, tell: Tell) -> None:
        before = [vars(thing)[name]] if name in vars(thing) else []
        setattr(thing, name, tell(getattr(thing, name)))
        self._undo.callback(_restore, thing, name, before)


def _give_back(thing: object, changed: type, own: type) -> None:
    if type(thing) is changed:
        thing.__class__ = own


def _restore(thing: object, name: str, before: list[object]) -> None:
    if before:
        setattr(thing, name, before[0])
    else:
        delattr(thing, name)
