"""What holds for every recording that a scan makes, asked once of one that was read from a file. All else may
rely on it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from diffprof.model.recording.scan import Recording
from diffprof.model.recording.timeline import Timeline

LARGEST = 1e24
"""Of any figure: a year of all computers in FLOP. Sums and products of two of these are finite."""
LONGEST_US = 1e15
"""Of one event: 30 years."""
MOST_STEPS = 1_000_000
"""Of a denoising loop: lists run along them."""
DEEPEST = 64
"""Levels of what a call was given."""
COLUMNS = ("kind", "module", "host_us", "device_us", "stream", "sync")
"""Of a timeline, one entry per event."""
SOME_COLUMNS = ("settle_us", "late_us")
"""As many, or none."""
ALONG_KINDS = ("now_us", "half_us", "sdpa_us", "qkv_us", "compiled_us", "int8_us")
"""Columns of `KindCosts`, one entry per kind of the timeline or none."""
NOT_NEGATIVE = frozenset({"count", "calls", "step", "steps", "line", "ops", "pending_limit"})
STEPS = frozenset({"step", "steps"})


def broken(recording: Recording) -> str | None:
    """The first thing that does not hold, as a clause; None where all does."""
    for section in recording.__struct_fields__:
        if section != "timeline" and not _fine(getattr(recording, section), section):
            return next(_wrong(getattr(recording, section), section), None)
    return next(_faults(recording), None)


def _faults(recording: Recording) -> Iterator[str]:
    waits = len(recording.syncs) if recording.syncs is not None else sys.maxsize  # not measured: no rows
    if recording.timeline is not None:
        yield from _timeline(recording.timeline, waits)
    costs = recording.setup.costs if recording.setup else None
    kinds = len(recording.timeline.kinds) if recording.timeline else 0
    for name in ALONG_KINDS if costs is not None else ():
        column = getattr(costs, name)
        if column and len(column) != kinds:
            yield f"setup.costs.{name} has {len(column)} entries for {kinds} kinds"
    for n, gap in enumerate(recording.gaps or ()):
        if gap.sync is not None and not 0 <= gap.sync < waits:
            yield f"gaps[{n}].sync is {gap.sync}, of {waits} waits"


def _timeline(timeline: Timeline, waits: int) -> Iterator[str]:
    events = len(timeline.host_us)
    for name in (*COLUMNS, *SOME_COLUMNS):
        entries = len(getattr(timeline, name))
        if entries != events and (entries or name in COLUMNS):
            yield f"timeline.{name} has {entries} entries for {events} events"
    for name, least, most, what in (
        ("kind", -1, len(timeline.kinds), "kinds"),
        ("module", -1, len(timeline.modules), "modules"),
        ("sync", -2, waits, "waits"),
    ):
        column = getattr(timeline, name)
        if column and not (least <= min(column) and max(column) < most):
            yield f"timeline.{name} names one that is not among the {most} {what}"
    for name in ("host_us", "device_us"):
        column = getattr(timeline, name)
        if column and not (min(column) >= 0.0 and max(column) <= LONGEST_US):
            yield f"timeline.{name} holds a time that can't be"
    for n, span in enumerate(timeline.phases):
        if not 0 <= span.first <= span.last <= events:
            yield f"timeline.phases[{n}] spans [{span.first}, {span.last}) of {events} events"
    for name in timeline.__struct_fields__:
        if name not in COLUMNS and not _fine(getattr(timeline, name), name):
            yield from _wrong(getattr(timeline, name), f"timeline.{name}", name)
    if timeline.pending_limit < 1:
        yield "timeline.pending_limit leaves room for no launch"


def _fine(value: Any, name: str, depth: int = 0) -> bool:
    """Whether every figure below is finite, of a size that can be, and, where it counts, not negative; and
    whether nothing is nested deeper than a person would."""
    if isinstance(value, float | int):
        return (
            -LARGEST <= value <= LARGEST
            and (value >= 0 or name not in NOT_NEGATIVE)
            and (value <= MOST_STEPS or name not in STEPS)
        )
    if isinstance(value, str) or value is None:
        return True
    if depth > DEEPEST:
        return False
    if isinstance(value, msgspec.Struct):
        return all(_fine(getattr(value, field), field, depth + 1) for field in _with_figures(type(value)))
    if isinstance(value, dict):
        return all(_fine(item, key, depth + 1) for key, item in value.items())
    return all(_fine(item, "", depth + 1) for item in value)


@functools.cache
def _with_figures(cls: type[msgspec.Struct]) -> tuple[str, ...]:
    """The fields that may hold a figure of a scan somewhere; what a call was given is the user's."""
    left_out = (str, str | None, bool, tuple[str, ...], dict[str, Any])
    return tuple(each.name for each in msgspec.structs.fields(cls) if each.type not in left_out)


def _wrong(value: object, where: str, name: str = "", depth: int = 0) -> Iterator[str]:
    """What is not fine."""
    if depth > DEEPEST:
        yield f"{where[:60]}... is nested more than {DEEPEST} levels deep"
    elif isinstance(value, float | int):
        if not _fine(value, name):
            yield f"{where} is {value:.6g}, which can't be"
    else:
        for key, item in _items(value):
            yield from _wrong(item, f"{where}{key}", key.lstrip("."), depth + 1)


def _items(value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, msgspec.Struct):
        return ((f".{name}", getattr(value, name)) for name in _with_figures(type(value)))
    if isinstance(value, dict):
        return ((f".{key}", item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return ((f"[{n}]", item) for n, item in enumerate(value))
    return ()
