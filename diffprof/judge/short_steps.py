"""Steps cut short by a value that is unknown without weights, such as what a cache of blocks decides by."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from msgspec.structs import replace

from diffprof.judge.steps import event_columns, steps_of
from diffprof.judge.timeline import total_us
from diffprof.model.recording import SyncRow, Timeline
from diffprof.model.summary import ShortSteps

SHORT = 0.7
"""Share of the longest step's device time below which a step is short."""


def short_steps(
    timeline: Timeline | None, syncs: Sequence[SyncRow] | None, call_ms: float | None
) -> ShortSteps | None:
    """What decides, and the call with whole steps; None where all are, or no such value is read.

    The denoiser reads it in every step that is short, and not in one that is whole: the first, before there
    is anything to compare with. call_ms: the call as it was simulated, in milliseconds.
    """
    if timeline is None or call_ms is None or not any(map(_is_unknown, syncs or ())):
        return None
    steps = steps_of(timeline)
    device = [sum(timeline.device_us[first:last]) for first, last in steps]
    longest = max(device, default=0.0)
    short = {n for n, each in enumerate(device) if each < SHORT * longest}
    whole = device.index(longest) if device else 0
    for row in syncs or ():
        if short and _decides(row, len(steps), short):
            longer_us = total_us(_run_whole(timeline, short, whole)) - total_us(timeline)
            return ShortSteps(
                site=row.site, steps=len(short), of=len(steps), whole_ms=call_ms + longer_us / 1e3
            )
    return None


def _decides(row: SyncRow, steps: int, short: Collection[int]) -> bool:
    read_in = {n for n, count in enumerate(row.by_step) if count}
    return (
        _is_unknown(row) and len(row.by_step) == steps and read_in.issuperset(short) and len(read_in) < steps
    )


def _is_unknown(row: SyncRow) -> bool:
    """Whether the denoiser's code reads a value that nobody has."""
    copied = row.kind == "device-to-host" and not row.values_known
    return row.part == "denoiser" and (row.assumed is not None or copied)


def _run_whole(timeline: Timeline, short: Collection[int], whole: int) -> Timeline:
    """The timeline with the events of step `whole` in place of those of the short ones, without phases."""
    steps = steps_of(timeline)
    columns = {}
    for name in event_columns(timeline):
        column = getattr(timeline, name)
        made, at = [], 0
        for n in sorted(short):
            first, last = steps[n]
            made += [*column[at:first], *column[slice(*steps[whole])]]
            at = last
        columns[name] = (*made, *column[at:])
    return replace(timeline, phases=(), **columns)
