"""Where the host waited, and which copies came from pageable memory."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffprof.chrome_trace.events import CallKind, Phase, Table, Trace, call_kind, copy_direction, wait_scope
from diffprof.chrome_trace.links import Links
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
    """rows: of the recording. of_call: for each runtime call its row, -1 if it doesn't block, -2 if it blocks
    without a row. kinds: CallKind of each call. blocking: rows of calls that block, by start."""

    rows: tuple[SyncRow, ...]
    of_call: Any
    kinds: list[CallKind]
    blocking: Any


@dataclass(frozen=True)
class WaitEvent:
    """One blocking call. ops: around it, innermost first. row: in the recording's syncs, or -2."""

    start_us: float
    end_us: float
    ops: tuple[str, ...]
    phase: Phase | None
    row: int


def wait_events(trace: Trace, links: Links, phases: Phases, waits: Waits) -> tuple[WaitEvent, ...]:
    """Every blocking call in the order in which they began, as the timeline has them."""
    calls = trace.calls
    found = phases.at(calls.ts[waits.blocking])
    return tuple(
        WaitEvent(
            start_us=float(calls.ts[call]),
            end_us=float(calls.end[call]),
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
    what: str
    site: Site
    phase: str
    part: str | None
    count: int = 0
    bytes: int = 0
    waited_us: float = 0.0
    steps: Counter[int] = field(default_factory=Counter)


def find_waits(trace: Trace, links: Links, phases: Phases) -> Waits:
    """Every blocking call and staged copy, grouped by kind and place."""
    calls = trace.calls
    of_name = [call_kind(name) for name in trace.names]
    kinds = [of_name[name] for name in calls.name.tolist()]
    blocks = np.array([kind.blocks for kind in kinds], dtype=bool)
    frees = np.array([kind is CallKind.FREE for kind in kinds], dtype=bool)
    # With nothing on the device there is nothing that giving memory back could wait for.
    blocks &= ~frees | _device_has_work(trace, links)
    of_call = np.full(len(calls), NOT_BLOCKING)
    blocking = np.flatnonzero(blocks)
    copies = _copies(trace, links)
    before = _previous_on_lane(calls)
    staged = [row for row in copies if not blocks[row] and copies[row][1] and copies[row][0] == "h2d"]
    modules, module_of = links.modules
    phase_of = phases.at(calls.ts)
    rows: dict[tuple[Any, ...], _Row] = {}
    index: dict[tuple[Any, ...], int] = {}
    paired: set[int] = set()

    def add(call: int, kind: str, copy: int | None) -> int:
        frames = frames_at(links, call)
        if from_profiler(frames):
            return NO_ROW
        name = trace.name(calls, call)
        ops = links.op_nest.chain(int(links.op_of_call[call]))
        op = trace.name(trace.ops, ops[0]) if ops else name
        outer = trace.name(trace.ops, ops[-1]) if ops else name
        site = site_of(frames, instead=outer, module=modules[int(module_of[call])] or None)
        phase = phases.phase(int(phase_of[call]))
        key = (kind, site.file, site.line, site.function, op, phase and (phase.name, phase.part))
        row = rows.get(key)
        if row is None:
            index[key] = len(rows)
            row = rows[key] = _Row(
                kind=kind,
                op=op,
                call=name,
                what=copies[copy][2] if copy is not None else "",
                site=site,
                phase=phase.name if phase else NO_PHASE,
                part=phase.part if phase else None,
            )
        row.count += 1
        row.bytes += copies[copy][3] if copy is not None else 0
        row.waited_us += float(calls.dur[call])
        if phase and phase.name == LOOP:
            row.steps[phases.step_at(float(calls.ts[call]))] += 1
        return index[key]

    for call in blocking.tolist():
        copy = call if call in copies else None
        previous = int(before[call])
        if copy is None and kinds[call] is CallKind.WAIT and previous in copies and previous not in paired:
            same_op = links.op_of_call[call] == links.op_of_call[previous]
            near = calls.ts[call] - calls.end[previous] < _BESIDE_US
            if same_op and (near or links.op_of_call[call] >= 0):
                copy = previous
                paired.add(previous)
        kind = _kind(trace, links, call, kinds[call], copies[copy] if copy is not None else None)
        of_call[call] = add(call, kind, copy)
    for call in staged:
        if call not in paired:
            add(call, "staged-copy", call)
    steps = len(phases.step_spans)
    return Waits(tuple(_finished(row, steps) for row in rows.values()), of_call, kinds, blocking)


def _device_has_work(trace: Trace, links: Links) -> Any:
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

_Copy = tuple[str, bool | None, str, int]
"""(direction, pageable, name in the trace, bytes)."""


def _copies(trace: Trace, links: Links) -> dict[int, _Copy]:
    """Copies by the call that made them."""
    work = trace.work
    found: dict[int, _Copy] = {}
    for row in np.flatnonzero((work.table == Table.COPY) & (links.call_of_work >= 0)).tolist():
        name = trace.name(work, row)
        direction, pageable = copy_direction(name)
        found[int(links.call_of_work[row])] = (direction, pageable, name, max(0, int(work.bytes[row])))
    return found


def _previous_on_lane(calls: Any) -> Any:
    """For each call the one before it on its thread, or -1."""
    before = np.full(len(calls), -1)
    order = np.lexsort((calls.ts, calls.lane))
    same = calls.lane[order][1:] == calls.lane[order][:-1]
    before[order[1:][same]] = order[:-1][same]
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
        return {"d2h": "device-to-host", "h2d": "host-to-device"}.get(copy[0], "synchronize")
    return "synchronize"


def _finished(row: _Row, steps: int) -> SyncRow:
    in_loop = row.phase == LOOP
    by_step = tuple(row.steps.get(i, 0) for i in range(steps)) if in_loop else ()
    steady = by_step[1:] or by_step
    time = f"{row.waited_us / 1e3:.3g} ms" if row.waited_us >= 1e3 else f"{row.waited_us:.3g} us"
    what = f"{row.what}, then " if row.what and row.what != row.call else ""
    if row.kind == "staged-copy":
        reason = f"{row.what}: the driver stages pageable memory, {time} of host time in {row.call}"
    elif row.kind == "free":
        reason = f"{row.call} gives device memory back, which waits for the device: {time} in all"
    elif call_kind(row.call) is CallKind.WAIT:
        reason = f"{what}{row.call} waits for the {wait_scope(row.call)}: {time} in all"
    else:
        reason = f"{what}{row.call} returns when the copy is done: {time} in all"
    return SyncRow(
        kind=row.kind,
        op=row.op,
        reason=reason,
        source=f"{row.call} in the trace",
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
        blocked_us=None if row.kind == "staged-copy" else round(row.waited_us, 3),
    )
