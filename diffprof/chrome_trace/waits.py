"""Where the CPU waited, and which copies came from pageable memory."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from diffprof.chrome_trace.events import (
    CallKind,
    CallPart,
    EventTable,
    Spans,
    Trace,
    call_kind,
    copy_direction,
    wait_scope,
)
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.nesting import Nest
from diffprof.chrome_trace.phases import LOOP, Phases
from diffprof.chrome_trace.sites import frames_at, from_profiler, site_of
from diffprof.model.recording import Site, SyncRow

NO_PHASE = "call"
"""Phase of what happened in a trace that tells no phases."""

NOT_BLOCKING = -1
NO_ROW = -2
"""Blocks, but is the profiler's own doing."""

_READS = frozenset(
    {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::equal", "aten::allclose"}
)
_SHAPES = frozenset(
    {
        "aten::nonzero",
        "aten::masked_select",
        "aten::unique_consecutive",
        "aten::_unique",
        "aten::_unique2",
        "aten::unique_dim",
        "aten::repeat_interleave",
        "aten::bincount",
    }
)


@dataclass
class Waits:
    """Where the CPU waited.

    rows: of the recording. kinds: CallKind of each runtime call. blocking: calls with which a wait begins, by
    start. of_call: for each call of a wait its row, -1 if it doesn't wait, -2 if it waits without a row.
    until: for each call, when it ends, with a wait the end of the wait, which is another call's where a copy
    and the synchronize behind it are one wait. waited: for each call, microseconds spent in the calls of its
    wait. unasked_us: time in waits that are the profiler's own."""

    rows: tuple[SyncRow, ...]
    of_call: np.ndarray
    kinds: list[CallKind]
    blocking: np.ndarray
    until: np.ndarray
    waited: np.ndarray
    unasked_us: float = 0.0

    @property
    def inside(self) -> np.ndarray:
        """For each call, whether the CPU waits in it."""
        return self.of_call != NOT_BLOCKING


@dataclass(frozen=True)
class WaitEvent:
    """One wait. waited_us: spent in its calls. ops: around it, innermost first. row: of the recording's
    syncs, or -2."""

    start_us: float
    end_us: float
    waited_us: float
    ops: tuple[str, ...]
    phase: CallPart | None
    row: int


def wait_events(trace: Trace, links: Links, phases: Phases, waits: Waits) -> tuple[WaitEvent, ...]:
    """Every wait in the order in which they began, as the timeline has them."""
    calls = trace.calls
    found = phases.at(calls.ts[waits.blocking])
    return tuple(
        WaitEvent(
            start_us=float(calls.ts[call]),
            end_us=float(waits.until[call]),
            waited_us=float(waits.waited[call]),
            ops=tuple(trace.name(trace.ops, op) for op in links.op_nest.chain(int(links.op_of_call[call]))),
            phase=phases.phase(int(phase)),
            row=int(waits.of_call[call]),
        )
        for call, phase in zip(waits.blocking.tolist(), found.tolist(), strict=True)
    )


@dataclass
class _Row:
    kind: str
    op: str
    call: str
    behind: str
    what: str
    site: Site
    phase: str
    part: str | None
    count: int = 0
    bytes: int = 0
    waited_us: float = 0.0
    copied_us: float = 0.0
    steps: Counter[int] = field(default_factory=Counter)


@dataclass
class _Found:
    """The waits of a trace before they are grouped. heads: calls with which one begins. behind: head -> the
    synchronize that is part of it. copy_of: head -> the copy that it is for. staged: copies that take the
    host's time and make it wait for nothing."""

    kinds: list[CallKind]
    copies: dict[int, _Copy]
    heads: list[int]
    behind: dict[int, int]
    copy_of: dict[int, int]
    staged: list[int]


def find_waits(trace: Trace, links: Links, phases: Phases) -> Waits:
    """Every wait of the CPU and every staged copy, grouped by kind and place.

    What the CPU spends inside a call that waits is its wait, measured: a synchronize, a blocking copy, and a
    copy from or to pageable memory, which is asynchronous by its name only. A synchronize behind such a copy
    is part of the same wait. A call inside another that waits (the driver's in the runtime's) adds nothing.
    """
    calls = trace.calls
    found = _find(trace, links)
    grouping = _Grouping(trace, links, phases, found.copies)
    of_call = np.full(len(calls), NOT_BLOCKING)
    until, waited = calls.end.copy(), calls.dur.copy()
    unasked = 0.0
    for call in found.heads:
        second = found.behind.get(call)
        if second is not None:
            until[call] = calls.end[second]
            waited[call] += calls.dur[second]
        copy = found.copy_of.get(call)
        kind = _kind(
            trace, links, call, found.kinds[call], found.copies.get(copy) if copy is not None else None
        )
        row = grouping.add(call, second, kind, copy, float(waited[call]))
        of_call[call] = row
        if second is not None:
            of_call[second] = row
        if row == NO_ROW:
            unasked += float(waited[call])
    for call in found.staged:
        grouping.add(call, None, "staged-copy", call, 0.0, float(calls.dur[call]))
    rows = grouping.finished()
    return Waits(rows, of_call, found.kinds, np.array(found.heads, np.int64), until, waited, unasked)


class _Grouping:
    """Waits by kind and place."""

    def __init__(self, trace: Trace, links: Links, phases: Phases, copies: dict[int, _Copy]) -> None:
        self.trace, self.links, self.phases, self.copies = trace, links, phases, copies
        self.modules, self.module_of = links.modules
        self.phase_of = phases.at(trace.calls.ts)
        self.rows: dict[tuple[object, ...], _Row] = {}
        self.index: dict[tuple[object, ...], int] = {}

    def add(
        self,
        call: int,
        second: int | None,
        kind: str,
        copy: int | None,
        waited_us: float,
        copied_us: float = 0.0,
    ) -> int:
        """The number of the row to which the wait was added, or NO_ROW. copied_us: what the CPU spent on the
        copy, waiting for nothing."""
        trace, phases = self.trace, self.phases
        frames = frames_at(self.links, call)
        if from_profiler(frames):
            return NO_ROW
        phase = phases.phase(int(self.phase_of[call]))
        name = trace.name(trace.calls, call)
        ops = self.links.op_nest.chain(int(self.links.op_of_call[call]))
        op = trace.name(trace.ops, ops[0]) if ops else name
        outer = trace.name(trace.ops, ops[-1]) if ops else name
        site = site_of(frames, instead=outer, module=self.modules[int(self.module_of[call])] or None)
        key = (kind, site.file, site.line, site.function, op, phase and (phase.name, phase.part))
        row = self.rows.get(key)
        if row is None:
            self.index[key] = len(self.rows)
            row = self.rows[key] = _Row(
                kind=kind,
                op=op,
                call=name,
                behind=trace.name(trace.calls, second) if second is not None else "",
                what=self.copies[copy].name if copy in self.copies else "",
                site=site,
                phase=phase.name if phase else NO_PHASE,
                part=phase.part if phase else None,
            )
        row.count += 1
        row.bytes += self.copies[copy].bytes if copy in self.copies else 0
        row.waited_us += waited_us
        row.copied_us += copied_us
        if phase and phase.name == LOOP:
            row.steps[phases.step_at(float(trace.calls.ts[call]))] += 1
        return self.index[key]

    def finished(self) -> tuple[SyncRow, ...]:
        steps = len(self.phases.step_spans)
        return tuple(_finished(row, steps) for row in self.rows.values())


def _find(trace: Trace, links: Links) -> _Found:
    calls = trace.calls
    of_name = [call_kind(name) for name in trace.names]
    kinds = [of_name[name] for name in calls.name.tolist()]
    outer = Nest(calls.ts, calls.dur, calls.track).parent
    copies = _copies(trace, links, kinds, outer)
    waits = np.array([kind.blocks for kind in kinds], dtype=bool)
    frees = np.array([kind is CallKind.FREE for kind in kinds], dtype=bool)
    # With nothing on the device there is nothing that giving memory back could wait for.
    waits &= ~frees | _device_has_work(trace, links)
    held = {row for row, copy in copies.items() if kinds[row] is CallKind.COPY and copy.holds_host}
    before = _previous_on_track(calls, kinds, outer)
    behind: dict[int, int] = {}
    copy_of = {row: row for row in copies}
    for call in np.flatnonzero(waits).tolist():
        copy = int(before[call])
        if (
            kinds[call] is not CallKind.WAIT
            or copy in behind
            or not _belongs(trace, links, copy, call, copies)
        ):
            continue
        copy_of[call] = copy
        if copy in held or (copy not in copies and not len(trace.work)):
            behind[copy] = call
    staged = sorted(row for row in held if copies[row].is_staging and row not in behind)
    waits[[*held, *behind]] = True
    waits[[*staged, *behind.values()]] = False
    heads = np.flatnonzero(waits)
    inner = Nest(calls.ts[heads], calls.dur[heads], calls.track[heads]).parent >= 0
    return _Found(kinds, copies, heads[~inner].tolist(), behind, copy_of, staged)


def _belongs(trace: Trace, links: Links, copy: int, wait: int, copies: dict[int, _Copy]) -> bool:
    """Whether a wait is the end of the copy before it on its thread."""
    if copy < 0 or wait_scope(trace.name(trace.calls, wait)) == "device":
        return False
    if copy in copies and copies[copy].direction not in ("h2d", "d2h", "copy"):
        return False
    op = links.op_of_call[wait]
    near = trace.calls.ts[wait] - trace.calls.end[copy] < _BESIDE_US
    return bool(op == links.op_of_call[copy] and (near or op >= 0))


def _device_has_work(trace: Trace, links: Links) -> np.ndarray:
    """For each call, whether work launched before it was unfinished when it began."""
    calls, work = trace.calls, trace.work
    launcher = links.call_of_work
    issued = (
        np.sort(np.where(launcher >= 0, calls.ts[np.maximum(launcher, 0)], work.ts))
        if len(calls)
        else work.ts
    )
    before = np.searchsorted(issued, calls.ts, side="left")
    done = np.searchsorted(np.sort(work.end), calls.ts, side="right")
    return before > done


_BESIDE_US = 50.0
"""Without an op to tell, a wait this soon after a copy on the same thread is the copy's."""


class _Copy(NamedTuple):
    """pageable: whether its memory on the CPU is, None if not told. name: in the trace. late: whether the
    call returned only when the copy was done. stalled: whether it began before the stream's earlier work was
    done, and returned after that."""

    direction: str
    pageable: bool | None
    name: str
    bytes: int
    late: bool
    stalled: bool

    @property
    def is_staging(self) -> bool:
        """Whether the CPU only takes part in it."""
        return self.direction == "h2d" and not self.stalled

    @property
    def holds_host(self) -> bool:
        """Whether a call that is asynchronous by its name keeps the CPU. To pageable memory it returns when
        the copy is done. From pageable memory it returns when the driver has staged the data, before which it
        "may synchronize with the stream" (CUDA's reference, API synchronization behavior): only where it
        stalled did the CPU wait, else it copied."""
        if self.direction not in ("h2d", "d2h"):
            return False
        return bool(self.pageable) or (self.pageable is None and self.direction == "d2h" and self.late)


def _copies(trace: Trace, links: Links, kinds: list[CallKind], outer: np.ndarray) -> dict[int, _Copy]:
    """Copies by the call that made them; of the driver's call in the runtime's, by the latter."""
    work, calls = trace.work, trace.calls
    found: dict[int, _Copy] = {}
    earlier = _earlier_end(work)
    for row in np.flatnonzero((work.table == EventTable.COPY) & (links.call_of_work >= 0)).tolist():
        call = int(links.call_of_work[row])
        if (above := int(outer[call])) >= 0 and kinds[above] in (CallKind.COPY, CallKind.BLOCKING_COPY):
            call = above
        name = trace.name(work, row)
        late = bool(calls.end[call] >= work.ts[row] + work.dur[row])
        stalled = bool(calls.ts[call] + 1.0 < earlier[row] <= calls.end[call] + 1.0)
        found[call] = _Copy(*copy_direction(name), name, max(0, int(work.bytes[row])), late, stalled)
    return found


def _earlier_end(work: Spans) -> np.ndarray:
    """For each piece of device work, when all that its stream had begun before it was done."""
    found = np.full(len(work), -np.inf)
    order = np.lexsort((work.ts, work.track))
    tracks = work.track[order]
    for rows in np.split(order, np.flatnonzero(np.diff(tracks)) + 1):
        found[rows[1:]] = np.maximum.accumulate(work.end[rows])[:-1]
    return found


def _previous_on_track(calls: Spans, kinds: list[CallKind], outer: np.ndarray) -> np.ndarray:
    """For each waiting call, the copy call that ended before it on its thread, with nothing else between that
    gives the device work or waits; else -1."""
    before = np.full(len(calls), -1)
    last: dict[int, int] = {}
    tracks = calls.track.tolist()
    for call, kind in enumerate(kinds):
        if kind is CallKind.OTHER or (outer[call] >= 0 and kinds[outer[call]] is not CallKind.OTHER):
            continue
        previous = last.get(tracks[call], -1)
        if previous >= 0 and kinds[previous] is CallKind.COPY:
            before[call] = previous
        last[tracks[call]] = call
    return before


def _kind(trace: Trace, links: Links, call: int, kind: CallKind, copy: _Copy | None) -> str:
    if kind is CallKind.FREE:
        return "free"
    names = {trace.name(trace.ops, op) for op in links.op_nest.chain(int(links.op_of_call[call]))}
    if names & _SHAPES:
        return "data-dependent-shape"
    if names & _READS:
        return "value-read"
    if copy is not None:
        return {"d2h": "device-to-host", "h2d": "host-to-device"}.get(copy.direction, "synchronize")
    return "synchronize"


def _finished(row: _Row, steps: int) -> SyncRow:
    in_loop = row.phase == LOOP
    by_step = tuple(row.steps.get(i, 0) for i in range(steps)) if in_loop else ()
    steady = by_step[1:] or by_step
    calls = f"{row.call} and {row.behind}" if row.behind else row.call
    return SyncRow(
        kind=row.kind,
        op=row.op,
        reason=_reason(row, calls),
        source=f"{calls} in the trace",
        site=row.site,
        phase=row.phase,
        part=row.part,
        in_loop=in_loop,
        count=row.count,
        per_step=float(statistics.median(steady)) if steady else 0.0,
        by_step=by_step,
        first_step_only=bool(by_step) and by_step[0] > 0 and not any(by_step[1:]) and len(by_step) > 1,
        bytes=row.bytes,
        witnesses=("trace",),
        blocked_us=round(row.waited_us, 3),
    )


def _reason(row: _Row, calls: str) -> str:
    spent = row.waited_us + row.copied_us
    time = f"{spent / 1e3:.3g} ms" if spent >= 1e3 else f"{spent:.3g} us"
    if row.kind == "staged-copy":
        took = f"{time} of the CPU's time in {row.call}"
        return f"{row.what}: the driver stages pageable memory, {took}; no earlier work held it up"
    if row.kind == "free":
        return f"{row.call} gives device memory back, which waits for the device: {time} in all"
    what = f"{row.what}, then " if row.what and not row.behind else ""
    if call_kind(row.call) is CallKind.WAIT:
        return f"{what}{row.call} waits for the {wait_scope(row.call)}: {time} in all"
    end = "return" if row.behind else "returns"
    what = f"{row.what}: " if row.what and row.what != row.call else ""
    return f"{what}{calls} {end} when the work before it and the copy are done: {time} in all"
