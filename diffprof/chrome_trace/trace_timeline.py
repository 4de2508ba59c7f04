"""A trace as a timeline that can be run again with parts left out."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from diffprof.chrome_trace import intervals
from diffprof.chrome_trace.events import CallKind, Spans, Trace, wait_scope
from diffprof.chrome_trace.kernel_rows import Kinds
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.phases import Phases
from diffprof.chrome_trace.waits import NOT_BLOCKING, Waits
from diffprof.model.recording import Grade, PhaseSpan, Timeline

PYTHON_EVENT_US = 20.0
"""Host time outside PyTorch's ops that becomes an event of its own."""

THROTTLED_PENDING = 900
"""Unfinished launches from which a slow launch is taken to wait for room (CUDA's queue holds 1024)."""

LATE_US = 100.0
"""From a launch to its kernel on an idle device: five times what the profiling guide of diffusers calls
unhealthy."""

ALL_STREAMS = -1


class _Builder:
    def __init__(self) -> None:
        self.kind: list[int] = []
        self.module: list[int] = []
        self.host: list[float] = []
        self.device: list[float] = []
        self.stream: list[int] = []
        self.sync: list[int] = []
        self.at: list[float] = []
        self.settle: list[float] = []
        self.late: list[float] = []

    def add(
        self,
        at: float,
        host: float,
        *,
        kind: int = -1,
        module: int = 0,
        device: float = 0.0,
        stream: int = 0,
        late: float = 0.0,
    ) -> None:
        """at: moment of the event on the trace's clock."""
        self.at.append(at)
        self.kind.append(kind)
        self.module.append(module)
        self.host.append(round(max(0.0, host), 3))
        self.device.append(round(device, 3))
        self.stream.append(stream)
        self.sync.append(NOT_BLOCKING)
        self.settle.append(0.0)
        self.late.append(round(late, 3))

    def launches(
        self,
        at: float,
        spent: float,
        works: Sequence[int],
        kinds: Kinds,
        durations: np.ndarray,
        device: _Device,
        module: int,
        late: Sequence[float],
    ) -> None:
        """One event a piece of work; the time of the CPU is before the first."""
        for number, each in enumerate(works):
            self.add(
                at,
                0.0 if number else spent,
                kind=int(kinds.of_work[each]),
                module=module,
                # A copy or kernel of no recorded length still takes its place in the queue.
                device=max(float(durations[each]), 0.001),
                stream=device.stream_of(each),
                late=late[number] if late else 0.0,
            )

    def waits(self, row: int, settle: float) -> None:
        """The event added last makes the CPU wait. settle: how long its wait goes on after the end of all
        recorded work that it waits for."""
        self.sync[-1] = row
        self.settle[-1] = round(max(0.0, settle), 3)

    def columns(self) -> dict[str, Any]:
        """The columns of a timeline that every trace has."""
        return {
            "kind": tuple(self.kind),
            "module": tuple(self.module),
            "host_us": tuple(self.host),
            "device_us": tuple(self.device),
            "stream": tuple(self.stream),
            "sync": tuple(self.sync),
            "late_us": tuple(self.late) if any(self.late) else (),
        }


def _typical_launch(durations: np.ndarray, launched: list[int], pending: Mapping[int, int]) -> float:
    """How long a call takes that launches, in microseconds, where the queue is not full."""
    unhindered = [row for row in launched if pending.get(row, 0) < THROTTLED_PENDING]
    return float(np.median(durations[unhindered or launched]))


def make_timeline(
    trace: Trace, links: Links, phases: Phases, waits: Waits, kinds: Kinds, *, grade: Grade, mode: str
) -> Timeline | None:
    """Launches and waits in host order, or None when launches and kernels can't be matched.

    A launch takes effect when its call begins; what the CPU does from there to the next call counts as
    the next event's time. All threads that launch are seen as one.
    """
    calls, work = trace.calls, trace.work
    launched = _works_by_call(links)
    if not launched:
        return None
    begins = set(waits.blocking.tolist())
    events = sorted(set(launched) | begins, key=lambda row: (calls.ts[row], row))
    modules, module_of_call = links.modules
    settle, latency = _sync_latency(trace, waits), _launch_latency(trace, links)
    pending = _pending(calls, work, links)
    measured = grade is Grade.MEASURED
    out = _Builder()
    host = _Host(trace, links, events, _begin(trace, links, phases, events))
    device = _Device(trace, links)
    typical = _typical_launch(calls.dur, list(launched), pending)
    for row in events:
        ts, duration = float(calls.ts[row]), float(calls.dur[row])
        module = int(module_of_call[row]) if len(module_of_call) else 0
        spent, python = host.until(ts)
        if python > PYTHON_EVENT_US:
            out.add(ts, python, module=module)
            spent -= python
        device.take(works := launched.get(row, ()), int(calls.track[row]))
        late = [device.late(each, ts + latency) if measured else 0.0 for each in works]
        out.launches(ts, spent, works, kinds, work.dur, device, module, late if row not in begins else ())
        if row in begins:
            until = float(waits.until[row])
            waited_for = device.waited_for(row, works, until)
            beyond = until - max(ts, device.done_by(waited_for, until))
            if not works or waited_for != out.stream[-1]:
                out.add(ts, 0.0 if works else spent, module=module, stream=waited_for)
            # What held up the copy that is waited for is part of the wait.
            out.waits(int(waits.of_call[row]), beyond + sum(late))
            # A simulated wait always takes the usual latency: what goes beyond it, the CPU was busy.
            host.free(until - (0.0 if measured else max(0.0, beyond - settle)))
        else:
            throttled = pending.get(row, 0) >= THROTTLED_PENDING and duration > 4 * typical
            host.free(ts + (duration - typical if throttled else 0.0))
    # The last annotation of a simulated call ends with its device; all that its host does is an event.
    if phases.window and phases.window[1] > host.now and measured:
        out.add(host.now, phases.window[1] - host.now)
    return Timeline(
        grade=grade,
        mode=mode,
        kinds=kinds.kinds,
        modules=tuple(modules),
        phases=_phase_spans(trace, links, phases, out),
        **out.columns(),
        launch_latency_us=round(latency, 3),
        sync_latency_us=round(settle, 3),
        settle_us=tuple(out.settle) if measured else (),
        pending_limit=max(1024, max(pending.values(), default=0) + 1),
    )


class _Host:
    """The CPU's track, from event to event. now: until when its time is told."""

    def __init__(self, trace: Trace, links: Links, events: Sequence[int], begin: float) -> None:
        self.in_torch = _prefix(intervals.union(_host_spans(trace, links, events)))
        self.now = begin

    def until(self, ts: float) -> tuple[float, float]:
        """(time since the last event, what of it was outside PyTorch's ops)."""
        spent = max(0.0, ts - self.now)
        return spent, spent - (self.in_torch(ts) - self.in_torch(self.now)) if ts > self.now else 0.0

    def free(self, at: float) -> None:
        """It goes on from this moment."""
        self.now = max(self.now, at)


class _Device:
    """Streams, numbered, and when their work was done: that of a known launch, as in the timeline."""

    def __init__(self, trace: Trace, links: Links) -> None:
        self.trace = trace
        work = trace.work
        self._known = links.call_of_work >= 0
        pairs = list(zip(work.device.tolist(), work.stream.tolist(), strict=True))
        numbers = {pair: number for number, pair in enumerate(sorted(set(pairs)))}
        self._streams = [numbers[pair] for pair in pairs]
        self._rows: dict[int, list[int]] = defaultdict(list)
        self._ends: dict[int, list[float]] = defaultdict(list)
        all_ends = work.end.tolist()
        for each in np.flatnonzero(self._known).tolist():
            self._rows[self._streams[each]].append(each)
            self._ends[self._streams[each]].append(all_ends[each])
        for ends in self._ends.values():
            ends.sort()
        self._ends[ALL_STREAMS] = np.sort(work.end[self._known]).tolist()
        self._last: dict[int, int] = {}
        self._busy: dict[int, Callable[[float], float]] = {}

    def stream_of(self, each: int) -> int:
        """The number of the stream that a piece of work ran on."""
        return self._streams[each]

    def late(self, each: int, ready: float) -> float:
        """How long it did not start although it was ready and the device had nothing to do that was launched
        in the trace: what it waited for is not in it."""
        start = float(self.trace.work.ts[each])
        idle = start - max(ready, self.done_by(ALL_STREAMS, start))
        return idle if idle > LATE_US and not self.works_at(start) else 0.0

    def works_at(self, at: float) -> bool:
        """Whether anything that began before goes on at a moment."""
        return self._worked(ALL_STREAMS, at - 1.0, at) > 0.0

    def take(self, works: Sequence[int], track: int) -> None:
        """A thread gave it work."""
        if works:
            self._last[track] = self._streams[works[-1]]

    def done_by(self, stream: int, at: float) -> float:
        """When the last work of a stream (or of all) that ended by a moment ended."""
        found = self._ends[stream]
        index = bisect_right(found, at)
        return found[index - 1] if index else float("-inf")

    def waited_for(self, row: int, works: Sequence[int], until: float) -> int:
        """The stream that a waiting call waits for. Where another one worked for most of the wait and its own
        did not, its own waited for that one's events."""
        calls = self.trace.calls
        ts, name = float(calls.ts[row]), self.trace.name(calls, row)
        if not works and wait_scope(name) != "stream":
            return ALL_STREAMS
        stream = self._streams[works[-1]] if works else self._last.get(int(calls.track[row]), ALL_STREAMS)
        elsewhere = self._worked(ALL_STREAMS, ts, until) - self._worked(stream, ts, until)
        return ALL_STREAMS if elsewhere * 2 > until - ts else stream

    def _worked(self, stream: int, start: float, end: float) -> float:
        """How long of a while it worked."""
        if stream not in self._busy:
            work = self.trace.work
            mine = self._rows[stream] if stream != ALL_STREAMS else np.flatnonzero(self._known)
            self._busy[stream] = _prefix(intervals.union(intervals.spans(work.ts[mine], work.dur[mine])))
        return self._busy[stream](end) - self._busy[stream](start)


def _works_by_call(links: Links) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row, call in enumerate(links.call_of_work.tolist()):
        if call >= 0:
            found.setdefault(call, []).append(row)
    return found


def _begin(trace: Trace, links: Links, phases: Phases, events: Sequence[int]) -> float:
    """When the CPU's track begins: with the call, else with the op around the first event."""
    first = float(trace.calls.ts[events[0]])
    if phases.window and phases.window[0] <= first:
        return phases.window[0]
    chain = links.op_nest.chain(int(links.op_of_call[events[0]]))
    return float(trace.ops.ts[chain[-1]]) if chain else first


def _host_spans(trace: Trace, links: Links, events: Sequence[int]) -> np.ndarray:
    """When the launching threads were in an op or a runtime call."""
    tracks = np.unique(trace.calls.track[np.asarray(events)])
    ops = np.isin(trace.ops.track, tracks)
    calls = np.isin(trace.calls.track, tracks)
    return np.concatenate(
        [
            intervals.spans(trace.ops.ts[ops], trace.ops.dur[ops]),
            intervals.spans(trace.calls.ts[calls], trace.calls.dur[calls]),
        ]
    )


def _prefix(merged: np.ndarray) -> Callable[[float], float]:
    """A function: how much of the line before a moment the set covers."""
    starts = merged[:, 0].tolist()
    lengths = (merged[:, 1] - merged[:, 0]).tolist()
    before = [0.0, *np.cumsum(lengths).tolist()]

    def up_to(at: float) -> float:
        index = bisect_right(starts, at)
        if index == 0:
            return 0.0
        return float(before[index - 1] + min(at - starts[index - 1], lengths[index - 1]))

    return up_to


def _pending(calls: Spans, work: Spans, links: Links) -> dict[int, int]:
    """For each launching call, launches issued but not finished when it began."""
    rows = np.flatnonzero(links.call_of_work >= 0)
    call = links.call_of_work[rows]
    issued = np.sort(calls.ts[call])
    finished = np.sort(work.end[rows])
    distinct = np.unique(call)
    at = calls.ts[distinct]
    count = np.searchsorted(issued, at, side="left") - np.searchsorted(finished, at, side="right")
    return dict(zip(distinct.tolist(), np.maximum(count, 0).tolist(), strict=True))


def _launch_latency(trace: Trace, links: Links) -> float:
    """Median time from the call's begin to the kernel's, for launches into an empty queue."""
    work, calls = trace.work, trace.calls
    rows = np.flatnonzero(links.call_of_work >= 0)
    if not len(rows):
        return 0.0
    # By stream, in the order of their starts.
    rows = rows[np.lexsort((work.ts[rows], work.stream[rows], work.device[rows]))]
    call = links.call_of_work[rows]
    fresh = np.diff(work.stream[rows], prepend=-2) | np.diff(work.device[rows], prepend=-2)
    free = np.concatenate(
        [
            np.concatenate([[-np.inf], np.maximum.accumulate(work.end[each])[:-1]])
            for each in np.split(rows, np.flatnonzero(fresh)[1:])
        ]
    )
    delay = work.ts[rows] - calls.ts[call]
    latencies = delay[(free <= calls.ts[call]) & (delay >= 0)]
    if len(latencies):
        return float(np.median(latencies))
    return float(np.min(delay[delay >= 0], initial=np.inf)) if (delay >= 0).any() else 0.0


def _sync_latency(trace: Trace, waits: Waits) -> float:
    """Median time a waiting call takes beyond the end of the work it waited for."""
    work, calls = trace.work, trace.calls
    rows = [row for row in waits.blocking.tolist() if waits.kinds[row] is CallKind.WAIT]
    if not rows or not len(work):
        return 0.0
    ends = np.sort(work.end)
    index = np.searchsorted(ends, calls.end[rows], side="right") - 1
    done = np.where(index >= 0, ends[np.maximum(index, 0)], -np.inf)
    return float(np.median(calls.end[rows] - np.maximum(calls.ts[rows], done)))


def _phase_spans(trace: Trace, links: Links, phases: Phases, out: _Builder) -> tuple[PhaseSpan, ...]:
    at = np.array(out.at)
    device = np.array(out.device)
    rows = []
    for start, end, phase in phases.spans:
        first = int(np.searchsorted(at, start, side="left"))
        last = int(np.searchsorted(at, end, side="left"))
        rows.append(
            PhaseSpan(
                name=phase.name,
                step=phase.step,
                part=phase.part,
                block=phase.block,
                first=first,
                last=last,
                host_us=round(end - start, 3),
                device_us=round(float(device[first:last].sum()), 3),
            )
        )
    return tuple(rows)
