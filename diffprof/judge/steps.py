"""The phases and denoising steps of a timeline, and the same call with more steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, repeat

from msgspec.structs import replace

from diffprof.model.recording import PhaseSpan, Timeline


def phase_of_events(timeline: Timeline) -> list[PhaseSpan | None]:
    """The innermost phase of every event."""
    found: list[PhaseSpan | None] = [None] * len(timeline.host_us)
    for span in outermost_first(timeline.phases):
        found[span.first : span.last] = repeat(span, max(0, min(span.last, len(found)) - span.first))
    return found


def outermost_first(phases: Sequence[PhaseSpan]) -> list[PhaseSpan]:
    """Phases by their begin; one that is inside another comes after it."""
    return sorted(phases, key=lambda span: (span.first, -span.last))


def steps_of(timeline: Timeline) -> tuple[tuple[int, int], ...]:
    """Events [first, last) of each denoising step, in order: from its first event to the next step's.

    The last step of a loop ends with its scheduler's part: what follows is no step's.
    """
    return tuple(step for loop in loops_of(timeline) for step in loop)


def loops_of(timeline: Timeline) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The steps of each denoising loop. Between two loops stands a phase that is no step's."""
    firsts: dict[int, int] = {}
    ends: dict[int, int] = {}
    loops: list[list[int]] = [[]]
    for span in sorted(timeline.phases, key=lambda each: each.first):
        if span.step is None:
            firsts = {step: first for step, first in firsts.items() if step in ends}
            loops += [[]] if loops[-1] else []
            continue
        firsts[span.step] = min(firsts.get(span.step, span.first), span.first)
        if span.part is not None:
            if span.step not in ends:
                loops[-1].append(span.step)
            ends[span.step] = max(ends.get(span.step, 0), span.last)
    return tuple(
        tuple(
            (firsts[step], ends[step] if after is None else firsts[after])
            for step, after in pairwise([*loop, None])
            if step is not None
        )
        for loop in loops
        if loop
    )


def with_steps(timeline: Timeline, count: int) -> Timeline | None:
    """The timeline of a call with `count` denoising steps, or None if that can't be told exactly.

    Steps are added where two neighbouring ones are the same, event for event; the first and last may differ.
    Of several loops it is unknown which gets longer.
    """
    missing = count - len(steps_of(timeline))
    if missing == 0:
        return timeline
    found = repeating(timeline) if missing > 0 else None
    if found is None:
        return None
    n, first, last = found
    columns = event_columns(timeline)
    added = missing * (last - first)
    changed: dict[str, tuple] = {
        name: (col := getattr(timeline, name))[:last] + col[first:last] * missing + col[last:]
        for name in columns
    }
    spans: list[PhaseSpan] = []
    repeated = [s for s in timeline.phases if s.step == n]
    for span in timeline.phases:
        if span.first >= last:
            step = None if span.step is None else span.step + missing
            spans.append(replace(span, first=span.first + added, last=span.last + added, step=step))
            continue
        spans.append(span)
        if repeated and span is repeated[-1]:
            for again in range(1, missing + 1):
                shift = again * (last - first)
                spans.extend(
                    replace(s, first=s.first + shift, last=s.last + shift, step=n + again) for s in repeated
                )
    return replace(timeline, phases=tuple(spans), **changed)


def with_asked_steps(timeline: Timeline, asked: int | None, steps: int | None) -> Timeline | None:
    """The timeline of a call that was asked for `asked` steps, with `steps` of them. None where nothing tells
    it: steps differ, or others are made than are asked for (of an image, a share)."""
    if steps is None or steps == asked:
        return timeline
    return with_steps(timeline, steps) if len(steps_of(timeline)) == asked else None


def event_columns(timeline: Timeline) -> list[str]:
    """What an event has a value in."""
    columns = ["kind", "module", "host_us", "device_us", "stream", "sync"]
    return columns + [name for name in ("settle_us", "late_us") if getattr(timeline, name)]


def repeating(timeline: Timeline) -> tuple[int, int, int] | None:
    """Number and events [first, last) of the last step that is the one before it again; None without one, and
    where there are several loops."""
    steps = steps_of(timeline)
    if len(loops_of(timeline)) > 1:
        return None
    columns = [getattr(timeline, name) for name in event_columns(timeline)]

    def content(place: tuple[int, int]) -> list[tuple]:
        return [column[slice(*place)] for column in columns]

    found = (n for n in range(len(steps) - 1, 0, -1) if content(steps[n]) == content(steps[n - 1]))
    n = next(found, None)
    return None if n is None else (n, *steps[n])


NEARLY = 0.02
"""Share by which host and device time of two steps may differ that stand for each other."""


def nearly_repeats(sums: Sequence[tuple[float, float]]) -> int | None:
    """The last step that is nearly the one before it. sums: host and device time of each."""
    alike = (
        n
        for n in range(len(sums) - 1, 0, -1)
        if all(math.isclose(*pair, rel_tol=NEARLY) for pair in zip(sums[n], sums[n - 1], strict=True))
    )
    return next(alike, None)


def nearly_repeating(timeline: Timeline) -> tuple[int, int] | None:
    """Events [first, last) of the last step that is nearly the one before it."""
    steps = steps_of(timeline)
    if len(loops_of(timeline)) > 1:
        return None
    sums = [(sum(timeline.host_us[a:b]), sum(timeline.device_us[a:b])) for a, b in steps]
    n = nearly_repeats(sums)
    return None if n is None else steps[n]
