"""The phases of one call of a pipeline, told from what it calls. Nothing here asks for a class by name."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from diffprof.model.pipeline import Pipeline, components, is_pipeline, is_timestep, replaced, role
from diffprof.targets.steps import StepCounter

if TYPE_CHECKING:
    import torch

FEW = 64
"""Elements of a tensor of timesteps that are compared by value."""


def _never_compiled(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that stays plain Python: around a compiled module Dynamo compiles hooks as well."""
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo.disable(hook) if dynamo is not None else hook


# --- the phases of one call ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Phase:
    """encode, prepare, denoise (with step and part: denoiser, scheduler or None), decode, postprocess. block:
    the innermost block that runs, of a pipeline that is made of blocks."""

    name: str
    step: int | None = None
    part: str | None = None
    block: str | None = None


@dataclass
class PhaseTracker:
    """Follows one call through its phases by wrapping what the pipeline calls: text encoders and
    `encode_*`, the denoisers, `scheduler.step` and `set_timesteps`, the VAE's `decode`, `postprocess`.

    on_change: told each new phase. steps: which denoising step it is in.
    """

    on_change: Callable[[Phase], None] | None = None
    current: Phase = field(default_factory=lambda: Phase("prepare"))
    steps: StepCounter = field(default_factory=StepCounter)
    denoising: bool = False
    stepped: bool = False
    """Whether a scheduler's step has ended since the last `set_timesteps`."""
    after: str = "prepare"
    """The phase of what runs between the parts: before the loop, after a decoding, after the last of all."""
    block: str | None = None
    _nested: list[Phase] = field(default_factory=list)
    _wrapped: set[tuple[object, str]] = field(default_factory=set)

    def _set(self, phase: Phase) -> None:
        phase = replace(phase, block=self.block)
        if phase != self.current:
            self.current = phase
            if self.on_change:
                self.on_change(phase)

    def _in_part(self) -> bool:
        """Whether a denoiser or a scheduler's step is running."""
        return any(phase.part for phase in (*self._nested, self.current))

    def moment(self) -> int:
        """Where the call stands, for `steps.step_of`."""
        return self.steps.moment if self._in_part() else self.steps.note()

    def enter(self, name: str, part: str | None = None, who: object = None, timestep: object = None) -> None:
        """A phase begins within the current one. part: denoiser or scheduler; who: which of them; timestep:
        what it is given for one."""
        nested = self._in_part()
        self._nested.append(self.current)
        if name == "denoise":
            assert part is not None
            self.denoising = True
            if not nested:
                self.steps.reach(part, who, timestep)
            self._set(Phase("denoise", self.steps.now(), part))
            return
        if not nested:
            self.steps.note()
        inside = self.denoising and (nested or self.steps.inside())
        if name == "encode" and inside:
            return
        if not inside:
            self.denoising, self.after = False, "prepare" if name == "encode" else name
            self.steps.leave()
        self._set(Phase(name))

    def leave(self, part: str | None = None) -> None:
        """It ends; the phase around it goes on."""
        outer = self._nested.pop() if self._nested else None
        ended = 0
        if part == "scheduler" and not any(phase.part for phase in (*self._nested, outer) if phase):
            self.stepped = True
            ended = int(self.steps.over())
        if self._nested and outer is not None:
            self._set(outer)
            return
        self._set(Phase("denoise", self.steps.now() + ended) if self.denoising else Phase(self.after))

    def restart(self) -> None:
        """A new set of timesteps: a loop is about to begin."""
        self.denoising = self.stepped = False
        self.after = "prepare"
        self.steps.leave()
        if not self._nested:
            self._set(Phase("prepare"))

    @contextmanager
    def watching(self, pipe: Pipeline) -> Iterator[PhaseTracker]:
        """Wrap the pipeline's parts while the context is open; every wrapper is gone after it."""
        with ExitStack() as undo:
            pipes = (pipe, *_nested_pipelines(pipe))
            for each in pipes:
                self._watch_methods(each, undo)
                self._watch_blocks(each, undo)
            for name, part in components(pipe).items():
                self._watch_component(role(name, part), part, undo)
            undo.callback(self.steps.end)
            self.steps.begin(_caller(), filter(None, map(_call_code, pipes)))
            yield self

    def _watch_methods(self, pipe: Pipeline, undo: ExitStack) -> None:
        for name in dir(type(pipe)):
            if name.startswith(("encode_", "_encode_")) and callable(getattr(pipe, name, None)):
                self._wrap(pipe, name, "encode", None, undo)
        for part in vars(pipe).values():
            for method in ("postprocess", "postprocess_video"):
                if callable(getattr(part, method, None)):
                    self._wrap(part, method, "postprocess", None, undo)

    def _watch_blocks(self, pipe: Pipeline, undo: ExitStack) -> None:
        """The blocks that a pipeline is made of, by name; a block may be made of others."""
        blocks = [each for part in vars(pipe).values() for each in _blocks(part)]
        names = {id(block): name for name, block in blocks}

        def called(original: Callable[..., object]) -> Callable[..., object]:
            @functools.wraps(original)
            def wrapped(block: object, *args: object, **kwargs: object) -> object:
                outer, self.block = self.block, names.get(id(block), self.block)
                self._set(self.current)
                try:
                    return original(block, *args, **kwargs)
                finally:
                    self.block = outer
                    self._set(self.current)

            return wrapped

        for cls in {type(block): None for _, block in blocks}:
            undo.enter_context(replaced(cls, "__call__", called(cls.__call__)))

    def _watch_component(self, what: str, part: object, undo: ExitStack) -> None:
        if what == "scheduler":
            for name in step_methods(part):
                self._wrap(part, name, "denoise", "scheduler", undo)
            self._wrap(part, "set_timesteps", "", None, undo)
        elif what == "denoiser":
            self._hook(part, "denoise", "denoiser", undo)
        elif what == "text_encoder":
            self._hook(part, "encode", None, undo)
        elif what == "vae":
            self._wrap(part, "decode", "decode", None, undo)

    def _hook(self, module: torch.nn.Module, phase: str, part: str | None, undo: ExitStack) -> None:
        given = _TimestepGiven(module.forward) if part else None

        def before(_: object, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            self.enter(phase, part, id(module), given(args, kwargs) if given else None)

        def after(*_: object) -> None:
            self.leave(part)

        hooks = _never_compiled(before), _never_compiled(after)
        undo.callback(module.register_forward_pre_hook(hooks[0], prepend=True, with_kwargs=True).remove)
        undo.callback(module.register_forward_hook(hooks[1], always_call=True).remove)

    def _wrap(self, owner: object, name: str, phase: str, part: str | None, undo: ExitStack) -> None:
        # On the class, so that a copy of the component made during the call is followed too and never
        # bound to the original; on the object only where it has an attribute of its own, bound as that is.
        own = name in vars(owner)
        place = owner if own else type(owner)
        if not own and (place, name) in self._wrapped:
            return
        self._wrapped.add((place, name))
        original = getattr(place, name)
        bound = own and getattr(original, "__self__", None) is owner
        if bound:
            original = original.__func__
        given = _TimestepGiven(original, derived=True) if part else None

        @functools.wraps(original)
        def wrapped(*args: object, **kwargs: object) -> object:
            if not phase:
                self.restart()
                return original(*args, **kwargs)
            self.enter(phase, part, part, given(args, kwargs) if given else None)
            try:
                return original(*args, **kwargs)
            finally:
                self.leave(part)

        undo.enter_context(replaced(place, name, types.MethodType(wrapped, owner) if bound else wrapped))
        undo.callback(self._wrapped.discard, (place, name))


def step_methods(scheduler: object) -> Iterator[str]:
    """`step`, and what schedulers have in its place or beside it: `step_pred`, `step_correct`."""
    cls = type(scheduler)
    for name in sorted({*dir(cls), *vars(scheduler)}):
        found = vars(scheduler).get(name, getattr(cls, name, None))
        if (name == "step" or name.startswith("step_")) and inspect.isroutine(found):
            yield name


class _TimestepGiven:
    """The timestep among a call's arguments, as something to compare with that of other calls. A tensor of a
    real device stands for itself by its address, which nobody has to read.

    derived: take tensors that are more than one number, which may have been made for the call.
    """

    def __init__(self, function: Callable[..., object], *, derived: bool = False) -> None:
        self.derived = derived
        try:
            names = list(inspect.signature(function).parameters)
        except (TypeError, ValueError):
            names = []
        self.names = [name for name in names if is_timestep(name)]
        self.places = [names.index(name) for name in self.names]

    def __call__(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Hashable:
        for name, place in zip(self.names, self.places, strict=True):
            value = kwargs.get(name, args[place] if place < len(args) else None)
            if value is not None:
                return self._key(value)
        return None

    def _key(self, value: Any) -> Hashable:
        if isinstance(value, (int, float)):
            return float(value)
        if not hasattr(value, "data_ptr"):
            return None
        from diffprof.devices.simulated import is_known, is_simulated, suspended

        if not is_simulated(value):
            alone = self.derived or not any(value.stride())
            return value.data_ptr() if alone and value.device.type != "meta" else None
        if not is_known(value) or value.numel() > FEW:
            return None
        with suspended():
            return repr(value.tolist())


def _call_code(pipe: Pipeline) -> CodeType | None:
    return getattr(inspect.unwrap(type(pipe).__call__), "__code__", None)


def _caller() -> FrameType | None:
    """The frame of a person's code, or of ours, that opened a context."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in (__file__, contextlib.__file__):
        frame = frame.f_back
    return frame


def _blocks(whole: object, path: str = "") -> Iterator[tuple[str, object]]:
    """(name, block) of those in a block, with the names of those around it: `denoise.predict`."""
    parts = getattr(whole, "sub_blocks", None)
    for name, block in parts.items() if isinstance(parts, Mapping) else ():
        yield f"{path}{name}", block
        yield from _blocks(block, f"{path}{name}.")


def _nested_pipelines(pipe: Pipeline) -> Iterator[Pipeline]:
    for part in vars(pipe).values():
        if is_pipeline(part):
            yield part
            yield from _nested_pipelines(part)
