"""What the launching thread did while the device had nothing to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffprof.chrome_trace import intervals
from diffprof.chrome_trace.events import CallKind, Spans, Trace
from diffprof.chrome_trace.intervals import Intervals
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.waits import Waits

STALL_US = 1000.0
"""A runtime call, or a stretch of one op without any, that takes longer does not issue work: a launch takes 5
to 20 us. It loads code, makes a context, sets up a library or tunes a kernel."""

CPU_OP_US = 100.0
"""An op that calls nothing of the device's and takes longer computes on the CPU; shorter ones (views, empty
tensors) belong to issuing."""

_ALLOCATION = re.compile(
    r"^(?:cuda|cu|hip)_?(?:Mem)?(?:Malloc|Alloc|HostAlloc|HostRegister|Free)", re.IGNORECASE
)
_DATA = re.compile(r"dataloader|data_?load", re.IGNORECASE)
"""PyTorch's own annotation is `enumerate(DataLoader)#...__next__`."""

SHARED = ("data", "allocation", "copy", "stall", "cpu-op", "launch", "python")
"""What `HostWork.shares` tells apart, as causes of idle time."""


@dataclass(frozen=True)
class HostWork:
    """What threads did, as sets of moments that don't overlap; what is in none of them is Python.

    Threads are laid end to end on one line, so that any number of them is one set. tracks: theirs, sorted;
    length_us: each one's part of the line."""

    sets: dict[str, Intervals]
    tracks: np.ndarray
    begin_us: float
    length_us: float

    def shares(self, track: np.ndarray, start: np.ndarray, end: np.ndarray) -> dict[str, np.ndarray]:
        """For each window [start, end) of a track, microseconds of each of SHARED."""
        shift = np.searchsorted(self.tracks, track) * self.length_us - self.begin_us
        start, end = np.asarray(start) + shift, np.asarray(end) + shift
        found = {name: intervals.covered(spans, start, end) for name, spans in self.sets.items()}
        rest = np.maximum(end - start, 0.0) - sum(found.values())
        return {**found, "python": np.maximum(rest, 0.0)}


def host_work(trace: Trace, waits: Waits, tracks: np.ndarray) -> HostWork:
    """Sorts the time of threads (tracks: sorted): each moment counts once, as what comes first in SHARED."""
    begin, length = _extent(trace)
    line = _Line(tracks, begin, length)
    calls, ops = trace.calls, trace.ops
    blocks = waits.inside
    copies = _of_kind(waits, CallKind.COPY) | _of_kind(waits, CallKind.BLOCKING_COPY)
    allocates = _named(trace, calls, _ALLOCATION.match)
    long = calls.dur > STALL_US
    in_call = line.spans(calls, True)
    begun = np.sort(line.at(calls.ts, calls.track)) if len(calls) else np.empty(0)
    calls_inside = np.searchsorted(begun, line.at(ops.end, ops.track)) - np.searchsorted(
        begun, line.at(ops.ts, ops.track)
    )
    alone = (calls_inside == 0) & (ops.dur > CPU_OP_US)
    in_op = line.spans(ops, True)
    between = _minus(in_op, in_call)
    stalled = between[between[:, 1] - between[:, 0] > STALL_US]
    data = np.concatenate(
        [line.spans(spans, _named(trace, spans, _DATA.search)) for spans in (trace.annotations, ops)]
    )
    ordered = (
        ("data", data),
        ("allocation", line.spans(calls, allocates & ~blocks)),
        ("copy", line.spans(calls, copies)),
        ("cpu-op", line.spans(ops, alone)),
        ("stall", np.concatenate([line.spans(calls, long & ~blocks), stalled])),
        ("launch", np.concatenate([in_op, line.spans(calls, ~blocks)])),
    )
    taken: Intervals = intervals.EMPTY
    sets = {}
    for name, spans in ordered:
        sets[name] = _minus(spans, taken)
        taken = intervals.union(np.concatenate([taken, spans]))
    return HostWork(sets, tracks, begin, length)


def _extent(trace: Trace) -> tuple[float, float]:
    """(start, length) of what the trace holds, the length rounded up to leave room between threads."""
    held = [spans for spans in (trace.calls, trace.ops, trace.annotations, trace.work) if len(spans)]
    if not held:
        return 0.0, 1.0
    begin = min(float(spans.ts.min()) for spans in held)
    return begin, max(float(spans.end.max()) for spans in held) - begin + 1.0


@dataclass(frozen=True)
class _Line:
    """Tracks laid end to end."""

    tracks: np.ndarray
    begin_us: float
    length_us: float

    def at(self, ts: np.ndarray, track: np.ndarray) -> np.ndarray:
        """Moments of tracks on the line; those of tracks that are not on it are NaN."""
        place = np.minimum(np.searchsorted(self.tracks, track), len(self.tracks) - 1)
        return np.where(self.tracks[place] == track, ts - self.begin_us + place * self.length_us, np.nan)

    def spans(self, spans: Spans, wanted: np.ndarray | bool) -> Intervals:
        """The wanted ones as intervals of the line."""
        rows = np.flatnonzero(wanted & np.isin(spans.track, self.tracks))
        if not len(rows):
            return intervals.EMPTY
        return intervals.spans(self.at(spans.ts[rows], spans.track[rows]), spans.dur[rows])


def busy_with(trace: Trace, links: Links, track: int, start: float, end: float) -> str | None:
    """The runtime call that a thread was in for most of [start, end), with the outermost op around it; else
    the innermost op that took most of it; None where neither did."""
    if (call := _longest(trace.calls, track, start, end)) is not None:
        chain = links.op_nest.chain(int(links.op_of_call[call]))
        name = trace.name(trace.calls, call)
        return f"{name} of {trace.name(trace.ops, chain[-1])}" if chain else name
    op = _longest(trace.ops, track, start, end)
    return None if op is None else trace.name(trace.ops, op)


def _longest(spans: Spans, track: int, start: float, end: float) -> int | None:
    near = np.flatnonzero((spans.track == track) & (spans.ts < end) & (spans.end > start))
    if not len(near):
        return None
    lengths = np.minimum(spans.end[near], end) - np.maximum(spans.ts[near], start)
    # Rows are sorted by start: of nested ones that have it all, the innermost comes last.
    at = len(lengths) - 1 - int(np.argmax(lengths[::-1]))
    return int(near[at]) if lengths[at] * 2 > end - start else None


def _of_kind(waits: Waits, kind: CallKind) -> np.ndarray:
    return np.array([each is kind for each in waits.kinds], dtype=bool)


def _named(trace: Trace, spans: Spans, matches: Callable[[str], object]) -> np.ndarray:
    if not len(spans):
        return np.empty(0, dtype=bool)
    return np.array([bool(matches(name)) for name in trace.names], dtype=bool)[spans.name]


def _minus(spans: Intervals, taken: Intervals) -> Intervals:
    merged = intervals.union(spans)
    if not len(merged) or not len(taken):
        return merged
    return intervals.intersection(
        merged, intervals.complement(taken, float(merged[0, 0]), float(merged[-1, 1]))
    )
