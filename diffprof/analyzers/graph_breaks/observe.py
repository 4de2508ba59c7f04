"""What each component is given during one pipeline call: the inputs that its capture needs."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from diffprof.analyzers.graph_breaks.compiled_regions import compiled_inside
from diffprof.analyzers.graph_breaks.repeats import Repeats, SeenModule
from diffprof.analyzers.graph_breaks.signature import Signature, signature, skeleton
from diffprof.model.pipeline import Pipeline, components, replaced, role
from diffprof.targets.loops import Loop
from diffprof.targets.pipeline import PhaseTracker
from diffprof.targets.steps import StepCounter

_METHODS = {"vae": ("encode", "decode"), "scheduler": ("step",)}
"""What is called of a component that is not called itself."""

MODULE_CALLS = 2
"""Calls of a model that keeps nothing, as the pipeline makes them: the second must not compile again."""

NEXT_CALLS = 2
"""Calls more of a model that is called once in a pipeline call and keeps something."""

WORTH_COMPARING = 100
"""Submodules from which on a model is searched for equal blocks: below, tracing it takes a second."""


@dataclass
class CallSignature:
    """Calls with one signature. in_loop: how many of them were made in the denoising loop."""

    inputs: Signature
    output: Signature
    shape: Any = None
    """Of the result, for `skeleton`; None where it can't be built from tensors alone."""
    count: int = 0
    in_loop: int = 0
    moments: list[int] = field(default_factory=list)
    """When they were made, for the tracker's `steps`."""


@dataclass
class Compilable:
    """Something that a user would compile: a component, or one of its methods. calls: by signature, in the
    order in which they first came; steps: of the denoising loops in which it is called."""

    name: str
    owner: Any
    method: str
    role: str
    no_grad: bool = True
    calls: list[CallSignature] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    """Index into calls, for every call made."""
    steps: int = 0
    loops: tuple[Loop, ...] = ()
    """Those denoising loops."""
    state: dict[str, object] | None = None
    """Attributes of a scheduler before its first call."""
    blocks: list[SeenModule] = field(default_factory=list)
    """Inputs of the submodules that may be equal, from the first call."""
    phases: Counter[str] = field(default_factory=Counter)
    """Of its calls."""
    keeps_state: bool = False
    """A model whose Python state is another one after the pipeline's call than before it."""
    compiled: dict[str, int] = field(default_factory=dict)
    """Submodules that the user compiled one by one: class -> how many. Empty where the whole is compiled, or
    nothing is."""

    @property
    def count(self) -> int:
        return sum(call.count for call in self.calls)

    @property
    def called_once(self) -> bool:
        """In one pipeline call: what its model keeps shows in the next one."""
        return len(self.order) < 2

    def next_calls(self) -> list[int]:
        """Of a model: index into calls, for the calls to make after the first one. One shows what it keeps;
        where it keeps something, those of a whole pipeline call, up to the recompile limit."""
        if not isinstance(self.owner, torch.nn.Module):
            return []
        if not self.keeps_state:
            return self.order[1:MODULE_CALLS]
        following = self.order[:1] * NEXT_CALLS if self.called_once else self.order[1:]
        return following[: torch._dynamo.config.recompile_limit + 1]

    @property
    def phase(self) -> str | None:
        """The one in which it is called most often."""
        return self.phases.most_common(1)[0][0] if self.phases else None

    @property
    def per_step(self) -> float:
        """Calls in each step of the denoising loop."""
        return sum(call.in_loop for call in self.calls) / self.steps if self.steps else 0.0


@contextmanager
def observing(pipe: Pipeline) -> Iterator[list[Compilable]]:
    """While the context is open, calls of the pipeline's components are recorded; the list is complete
    when it closes. Nothing stays behind on the pipeline."""
    parts: list[Compilable] = []
    tracker = PhaseTracker()
    with ExitStack() as stack:
        for name, component in components(pipe).items():
            for method in _methods(name, component):
                label = name if method == "__call__" else f"{name}.{method}"
                part = Compilable(label, component, method, role(name, component))
                part.compiled = compiled_inside(component)
                parts.append(part)
                _follow(part, components(pipe).values(), tracker, stack)
        # Around what follows the calls, so that a call is recorded within its phase.
        stack.enter_context(tracker.watching(pipe))
        yield parts
    for part in parts:
        _count_steps(part, tracker.steps)
    parts[:] = [part for part in parts if part.calls]


def _count_steps(part: Compilable, steps: StepCounter) -> None:
    """How many of its calls are in denoising loops, and how many steps these have."""
    inside: set[int] = set()
    for call in part.calls:
        found = [step for moment in call.moments if (step := steps.step_of(moment)) is not None]
        call.in_loop = len(found)
        inside.update(found)
    part.steps = sum(map(len, steps.runs(inside)))
    part.loops = steps.loops(inside)


def _methods(name: str, component: object) -> Iterator[str]:
    what = role(name, component)
    if isinstance(component, torch.nn.Module):
        yield "__call__"
    yield from (m for m in _METHODS.get(what, ()) if callable(getattr(component, m, None)))


def _follow(part: Compilable, others: Collection[object], tracker: PhaseTracker, stack: ExitStack) -> None:
    """Note every call. A module is followed by hooks. A method is followed on the class, or on the object
    where it has one of its own: so a copy that the pipeline makes is followed too, and is not bound to the
    original."""
    note = _noting(part, tracker)
    if part.method == "__call__":
        pending: list[tuple[Signature, Callable[[], None]]] = []

        def before(_: object, args: object, kwargs: object) -> None:
            pending.append((signature((args, kwargs)), _inside(part)))

        def after(_: object, args: object, kwargs: object, output: object) -> None:
            given, close = pending.pop()
            close()
            note(given, output)

        module = part.owner
        handles = (
            module.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
            module.register_forward_hook(after, with_kwargs=True),
        )
        for handle in handles:
            stack.callback(handle.remove)
        return
    own = part.method in vars(part.owner)
    place = part.owner if own else type(part.owner)
    original = getattr(place, part.method)

    @functools.wraps(original)
    def followed(*args: object, **kwargs: object) -> object:
        called = part.owner if own else args[0]
        if called is not part.owner and any(called is each for each in others):
            return original(*args, **kwargs)
        if part.state is None and not isinstance(part.owner, torch.nn.Module):
            part.state = _attributes(called, without=part.method)
        given = signature((args if own else args[1:], kwargs))
        close = _inside(part)
        try:
            output = original(*args, **kwargs)
        finally:
            close()
        note(given, output)
        return output

    stack.enter_context(replaced(place, part.method, followed))


def _inside(part: Compilable) -> Callable[[], None]:
    """Follow the submodules during the first call; the returned function ends that."""
    module = part.owner
    if part.calls or not isinstance(module, torch.nn.Module) or len(list(module.modules())) < WORTH_COMPARING:
        return lambda: None
    repeats = Repeats(module)

    def close() -> None:
        repeats.close()
        part.blocks = list(repeats.seen.values())

    return close


def _attributes(owner: object, without: str) -> dict[str, Any]:
    return {
        name: copy.copy(value) if type(value) in (list, dict, set) else value
        for name, value in vars(owner).items()
        if name != without
    }


def _noting(part: Compilable, tracker: PhaseTracker) -> Callable[[Signature, object], None]:
    index: dict[tuple[object, ...], int] = {}

    def note(inputs: Signature, output: object) -> None:
        part.no_grad = not torch.is_grad_enabled()
        at = index.setdefault(inputs.key, len(part.calls))
        if at == len(part.calls):
            part.calls.append(CallSignature(inputs, signature(output, values=False), skeleton(output)))
        part.order.append(at)
        part.calls[at].count += 1
        part.calls[at].moments.append(tracker.moment())
        part.phases[tracker.current.name] += 1

    return note
