"""What the Python of a pipeline and its scheduler costs after a fix: measured on the twin, whose models only
give what they gave before, and charged to the simulated timeline, which sees a fix's operations and not its
Python."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from msgspec.structs import replace

from diffprof.judge.timeline import total_us
from diffprof.model.pipeline import Pipeline, components, replaced
from diffprof.model.recording import Timeline
from diffprof.targets.pipeline_call import PipelineCall

CALLS = 7
"""Timed calls: the fastest counts, which other load on the machine disturbs least."""

_METHODS = ("forward", "encode", "decode")
"""Of a model, what a pipeline calls."""


def cpu_seconds(call: PipelineCall) -> float:
    """CPU time of this thread for a call of a small pipeline, without what its models do, seconds.

    What the call raises passes through.
    """
    answers: list[list[object]] = []
    with _models(call.pipe, lambda method: _recorded(method, answers)):
        call.run()
    found = []
    for _ in range(CALLS):
        left = iter([list(each) for each in answers])
        with _models(call.pipe, lambda method, left=left: _replayed(next(left))):  # type: ignore[misc]
            call.rewind()
            begun = time.thread_time()
            call.run()
            found.append(time.thread_time() - begun)
    return min(found)


@contextmanager
def _models(
    pipe: Pipeline, instead: Callable[[Callable[..., object]], Callable[..., object]]
) -> Iterator[None]:
    """Inside, the models' methods are others."""
    with ExitStack() as stack:
        models = {id(m): m for m in components(pipe).values() if isinstance(m, torch.nn.Module)}
        for model in models.values():
            for name in _METHODS:
                if callable(method := getattr(model, name, None)):
                    stack.enter_context(replaced(model, name, instead(method)))
        yield


def _recorded(method: Callable[..., object], answers: list[list[object]]) -> Callable[..., object]:
    own: list[object] = []
    answers.append(own)

    def call(*args: object, **kwargs: object) -> object:
        own.append(method(*args, **kwargs))
        return own[-1]

    return call


def _replayed(answers: list[object]) -> Callable[..., object]:
    left = iter(answers)
    return lambda *args, **kwargs: next(left)


def charged_ms(timeline: Timeline, original: Timeline, ratio: float, models: Iterable[str]) -> float:
    """How much longer the call is, ms, when its Python outside of the models takes `ratio` of the original's.

    original: the timeline before any fix, of which that Python is the host time. The operations that the
    timeline has are charged already: the rest is spread over the steps.
    """
    now, before = _outside(timeline, models), _outside(original, models)
    events = [event for step in now for event in step[:1]]
    if not events or not before:
        return 0.0
    wanted = ratio * sum(original.host_us[event] for step in before for event in step) / len(before)
    had = sum(timeline.host_us[event] for step in now for event in step) / len(now)
    host = list(timeline.host_us)
    for event in events:
        host[event] = max(0.0, host[event] + wanted - had)
    return (total_us(replace(timeline, host_us=tuple(host))) - total_us(timeline)) / 1e3


def _outside(timeline: Timeline, models: Iterable[str]) -> list[list[int]]:
    """The events of each step that are of no model."""
    inside = {n for n, name in enumerate(timeline.modules) if name.partition(".")[0] in set(models)}
    steps = {
        (span.first, span.last) for span in timeline.phases if span.step is not None and span.part is None
    }
    found = [[e for e in range(*step) if timeline.module[e] not in inside] for step in sorted(steps)]
    return [step for step in found if step]
