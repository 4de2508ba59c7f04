"""When the device had nothing to do, and why."""

from __future__ import annotations

import numpy as np

from diffprof.chrome_trace import intervals
from diffprof.chrome_trace.events import EventTable, Spans, Trace, copy_direction
from diffprof.chrome_trace.host_work import SHARED, STALL_US, busy_with, host_work
from diffprof.chrome_trace.kernel_rows import Kinds
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.nesting import latest
from diffprof.chrome_trace.phases import Phases
from diffprof.chrome_trace.sites import parse_frame, site_of
from diffprof.chrome_trace.waits import Waits
from diffprof.model.recording import GapRow, Site

ROW_LIMIT = 2000
"""Gaps kept one by one, longest first; the rest are summed by cause and phase."""

SHORT_US = 1.0
"""Gaps below this are always summed: older Kineto's clock ticks in microseconds."""

CLOCK_US = 0.002
"""Gaps up to this are none: two times rounded to a nanosecond."""

QUEUED_US = 100.0
"""A kernel that was queued this long before the gap's end did not wait for its launch: five times the
launch-to-start time that diffusers' profiling guide calls unhealthy."""


NAMED = ("stall", "allocation", "cpu-op", "copy")
"""Causes for which the call or op is named that the CPU was in."""


def device_busy(trace: Trace, device: int) -> np.ndarray:
    """When a device worked, on any stream."""
    work = trace.work
    rows = work.device == device
    return intervals.union(intervals.spans(work.ts[rows], work.dur[rows]))


def devices(trace: Trace) -> list[int]:
    """Devices with work, busiest first."""
    work = trace.work
    order = np.argsort(work.device, kind="stable")
    found, first = np.unique(work.device[order], return_index=True)
    busy = [
        intervals.total(intervals.spans(work.ts[rows], work.dur[rows])) for rows in np.split(order, first[1:])
    ]
    ranked = sorted(zip(found.tolist(), busy, strict=True), key=lambda pair: -pair[1])
    return [device for device, _ in ranked]


def find_gaps(
    trace: Trace,
    links: Links,
    phases: Phases,
    waits: Waits,
    kinds: Kinds,
    device: int,
    window: tuple[float, float],
) -> tuple[GapRow, ...]:
    """Idle stretches of one device: from the call's beginning to its first work (`after` is None), between
    its work, and a tail if the call goes on after the last. window: when the call begins and ends.

    sync: the CPU was waiting for the device when it ran dry. Else what the launching thread did for the
    largest part of the time: launch (it was issuing ops, or the launch was on its way), python (outside
    PyTorch's ops), copy (in a copy call, or the next work is a copy from or to the host), stall (in one op
    or call for over a millisecond: loading code, making a context, setting up a library), allocation
    (asking the driver for memory), cpu-op (in ops that compute on the CPU), data (in a data loader).
    unknown: no launch is known, or the work waited for something else long after its launch.
    """
    work = trace.work
    if not len(busy := device_busy(trace, device)):
        return ()
    mine = np.flatnonzero(work.device == device)
    start, end = _stretches(window[0], busy)
    ts, ends = work.ts[mine], work.end[mine]
    following = mine[np.searchsorted(ts, end, side="left")]
    preceding = _preceding(mine, ends, start)
    causes, syncs, until = _causes(trace, links, waits, start, end, following)
    call = links.call_of_work[following]
    phase_of = phases.at(np.where(call >= 0, until, start))
    rows: list[GapRow] = []
    rest: dict[tuple[str, str | None, int | None], list[float]] = {}
    order = np.argsort(start - end, kind="stable")[:ROW_LIMIT]
    longest = set(order[(end - start)[order] >= SHORT_US].tolist())
    names = [kind.name for kind in kinds.kinds]
    for i in range(len(start)):
        phase = phases.phase(int(phase_of[i]))
        name, step = (phase.name, phase.step) if phase else (None, None)
        length = float(end[i] - start[i])
        if i not in longest:
            _add(rest, (causes[i], name, step), float(start[i]), length)
            continue
        site, during = _doing(trace, links, causes[i], call[i], float(start[i]), float(until[i]))
        rows.append(
            GapRow(
                cause=causes[i],
                start_us=round(float(start[i]), 3),
                duration_us=round(length, 3),
                phase=name,
                step=step,
                after=names[kinds.of_work[preceding[i]]] if preceding[i] >= 0 else None,
                before=names[kinds.of_work[following[i]]],
                during=during,
                site=site,
                sync=syncs[i],
            )
        )
    rows += [_together(*key, *total) for key, total in rest.items()]
    rows += _tail(window[1], float(busy[-1, 1]), names[kinds.of_work[mine[np.argmax(ends)]]])
    return tuple(sorted(rows, key=lambda row: row.start_us))


def _stretches(begin: float, busy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Begins and ends of the idle stretches, from the beginning of the call to the last work."""
    start = np.concatenate([[begin], busy[:-1, 1]])
    end = np.concatenate([[busy[0, 0]], busy[1:, 0]])
    wide = end - start > CLOCK_US
    return start[wide], end[wide]


def _preceding(mine: np.ndarray, ends: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The work that ends last before each moment; -1: none does. mine: the work that has these ends."""
    by_end = np.argsort(ends, kind="stable")
    before = np.searchsorted(ends[by_end], start, side="right") - 1
    return np.where(before >= 0, mine[by_end[np.maximum(before, 0)]], -1)


def _doing(
    trace: Trace, links: Links, cause: str, call: int, start: float, until: float
) -> tuple[Site | None, str | None]:
    """(line of Python, ops or calls) of the launching thread meanwhile, where the cause asks for one."""
    if cause == "python":
        return _site_at(links, (start + until) / 2, int(trace.calls.track[call])), None
    if cause in NAMED:
        return None, busy_with(trace, links, int(trace.calls.track[call]), start, until)
    return None, None


def _add(
    rest: dict[tuple[str, str | None, int | None], list[float]],
    key: tuple[str, str | None, int | None],
    start: float,
    length: float,
) -> None:
    """Count a stretch that gets no row of its own."""
    total = rest.setdefault(key, [start, 0.0, 0])
    total[1] += length
    total[2] += 1


def _together(
    cause: str, phase: str | None, step: int | None, first: float, length: float, count: float
) -> GapRow:
    """The row of many stretches of one cause in one step; first: where the first of them begins."""
    return GapRow(
        cause=cause,
        start_us=round(first, 3),
        duration_us=round(length, 3),
        phase=phase,
        step=step,
        count=int(count),
    )


def _tail(until: float, end: float, after: str) -> list[GapRow]:
    """From the end of all work to the end of the call."""
    if until <= end:
        return []
    length = round(until - end, 3)
    return [GapRow(cause="tail", start_us=round(end, 3), duration_us=length, after=after)]


def _causes(
    trace: Trace, links: Links, waits: Waits, start: np.ndarray, end: np.ndarray, following: np.ndarray
) -> tuple[list[str], list[int | None], np.ndarray]:
    """(cause, sync row, end of the CPU's part) of each gap."""
    calls = trace.calls
    call = links.call_of_work[following]
    known = call >= 0
    if not known.any():
        return ["unknown"] * len(call), [None] * len(call), end
    launched = (
        np.where(known, calls.ts[np.maximum(call, 0)], np.inf) if len(calls) else np.full(len(call), np.inf)
    )
    # A launch of usual length counts as on its way; what a long one does is the CPU's part.
    slow = known & (calls.dur[np.maximum(call, 0)] > STALL_US) if len(calls) else known
    reached = np.where(slow, np.minimum(calls.end[np.maximum(call, 0)], end), launched) if len(calls) else end
    until = np.clip(reached, start, end)
    track = np.full(len(call), -1)
    track[known] = calls.track[call[known]]
    spent = {name: np.zeros(len(start)) for name in SHARED}
    if known.any():
        # What other threads do does not hold up this one.
        gaps = np.flatnonzero(known)
        shares = host_work(trace, waits, np.unique(track[gaps])).shares(track[gaps], start[gaps], until[gaps])
        for name, us in shares.items():
            spent[name][gaps] = us
    # Longer on its way than any launch takes: it waited for other work, such as an event of another stream.
    late = end - until > QUEUED_US
    spent["launch"] += np.where(late, 0.0, end - until)
    spent["unknown"] = np.where(late, end - until, 0.0)
    shared = list(spent)
    largest: np.ndarray = np.zeros(len(start), np.int8)
    most = spent[shared[0]].copy()
    for number, name in enumerate(shared):
        more = spent.pop(name)
        largest[more > most] = number
        np.maximum(most, more, out=most)
    sync_call, waited = _last_wait(calls, waits, track, start, until)
    transfers = [copy_direction(name)[0] in ("h2d", "d2h") for name in trace.names]
    work_names, is_copy = trace.work.name, trace.work.table[following] == EventTable.COPY
    causes: list[str] = []
    syncs: list[int | None] = []
    for i in range(len(start)):
        row = None
        if not known[i] or (launched[i] < start[i] and end[i] - launched[i] > QUEUED_US):
            cause = "unknown"
        elif waited[i] * 2 >= end[i] - start[i] and sync_call[i] >= 0:
            cause = "sync"
            row = int(waits.of_call[sync_call[i]])
        else:
            cause = shared[int(largest[i])]
            if cause == "launch" and transfers[work_names[following[i]]] and is_copy[i]:
                cause = "copy"
        causes.append(cause)
        syncs.append(row if row is not None and row >= 0 else None)
    return causes, syncs, until


def _last_wait(
    calls: Spans, waits: Waits, track: np.ndarray, start: np.ndarray, until: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The latest wait on the launching thread that began before the launch and ended after the device ran
    dry, and how long it kept the CPU."""
    blocking = waits.blocking
    found = latest(calls.ts[blocking], calls.track[blocking], until, track)
    if not len(blocking):
        return found, np.zeros(len(start))
    candidate = blocking[np.maximum(found, 0)]
    hit = (found >= 0) & (waits.until[candidate] > start)
    return np.where(hit, candidate, -1), np.where(hit, waits.until[candidate] - calls.ts[candidate], 0.0)


def _site_at(links: Links, ts: float, track: int) -> Site | None:
    """The Python code that ran on a thread at a moment."""
    trace = links.trace
    if not len(trace.frames):
        return None
    row = int(links.frame_nest.at(np.array([ts]), np.array([track]))[0])
    frames = tuple(
        frame
        for each in links.frame_nest.chain(row)
        if (frame := parse_frame(trace.name(trace.frames, each))) is not None
    )
    return site_of(frames, instead="", module=None) if frames else None
