"""A trace as a timeline that can be run again with parts left out."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffprof.chrome_trace import intervals
from diffprof.chrome_trace.events import CallKind, Trace, wait_scope
from diffprof.chrome_trace.kernel_rows import Kinds
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.phases import Phases
from diffprof.chrome_trace.waits import NOT_BLOCKING, Waits
from diffprof.model.recording import Grade, PhaseSpan, Timeline

PYTHON_EVENT_US = 20.0
"""Host time outside PyTorch's ops that becomes an event of its own."""

THROTTLED_PENDING = 900
"""Unfinished launches from which a slow launch is taken to wait for room (CUDA's queue holds 1024)."""

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

    def add(
        self,
        at: float,
        host: float,
        *,
        kind: int = -1,
        module: int = 0,
        device: float = 0.0,
        stream: int = 0,
        sync: int = -1,
    ) -> None:
        """at: moment of the event on the trace's clock."""
        self.at.append(at)
        self.kind.append(kind)
        self.module.append(module)
        self.host.append(round(max(0.0, host), 3))
        self.device.append(round(device, 3))
        self.stream.append(stream)
        self.sync.append(sync)


def make_timeline(
    trace: Trace, links: Links, phases: Phases, waits: Waits, kinds: Kinds, *, grade: Grade, mode: str
) -> Timeline | None:
    """Launches and waits in host order, or None when launches and kernels can't be matched.

    A launch takes effect when its call begins; what the host does from there to the next call counts as
    the next event's time. All threads that launch are seen as one.
    """
    calls, work = trace.calls, trace.work
    launched = _works_by_call(links)
    events = sorted(set(launched) | set(waits.blocking.tolist()), key=lambda row: (calls.ts[row], row))
    if not launched:
        return None
    streams = _stream_numbers(work)
    modules, module_of_call = links.modules
    pending = _pending(calls, work, links)
    unhindered = [row for row in launched if pending.get(row, 0) < THROTTLED_PENDING]
    typical = float(np.median(calls.dur[unhindered or list(launched)]))
    begin = _begin(trace, links, phases, events)
    in_torch = _prefix(intervals.union(_host_spans(trace, links, events)))
    out = _Builder()
    now = begin
    last_stream: dict[int, int] = {}
    settle = _sync_latency(trace, waits)
    drained = _last_end(work)
    for row in events:
        ts, duration = float(calls.ts[row]), float(calls.dur[row])
        module = int(module_of_call[row]) if len(module_of_call) else 0
        host = max(0.0, ts - now)
        python = host - (in_torch(ts) - in_torch(now)) if ts > now else 0.0
        if python > PYTHON_EVENT_US:
            out.add(ts, python, module=module)
            host -= python
        blocks = int(waits.of_call[row])
        lane = int(calls.lane[row])
        for number, each in enumerate(launched.get(row, ())):
            stream = streams[int(work.device[each]), int(work.stream[each])]
            last_stream[lane] = stream
            out.add(
                ts,
                host if number == 0 else 0.0,
                kind=int(kinds.of_work[each]),
                module=module,
                # A copy or kernel of no recorded length still takes its place in the queue.
                device=max(float(work.dur[each]), 0.001),
                stream=stream,
                sync=blocks if number == len(launched[row]) - 1 else NOT_BLOCKING,
            )
        if row not in launched:
            scope = wait_scope(trace.name(calls, row))
            stream = last_stream.get(lane, ALL_STREAMS) if scope == "stream" else ALL_STREAMS
            out.add(ts, host, module=module, stream=stream, sync=blocks)
        if blocks != NOT_BLOCKING:
            # What the call took beyond the device's end and the usual latency, the host was busy.
            beyond = ts + duration - max(ts, drained(ts + duration))
            now = max(now, ts + duration - max(0.0, beyond - settle))
        else:
            throttled = pending.get(row, 0) >= THROTTLED_PENDING and duration > 4 * typical
            now = max(now, ts + (duration - typical if throttled else 0.0))
    window = phases.window
    # The last annotation of a simulated call ends with its device; all that its host does is an event.
    if window and window[1] > now and grade is Grade.MEASURED:
        out.add(now, window[1] - now)
    return Timeline(
        grade=grade,
        mode=mode,
        kinds=kinds.kinds,
        modules=tuple(modules),
        phases=_phase_spans(trace, links, phases, out),
        kind=tuple(out.kind),
        module=tuple(out.module),
        host_us=tuple(out.host),
        device_us=tuple(out.device),
        stream=tuple(out.stream),
        sync=tuple(out.sync),
        launch_latency_us=round(_launch_latency(trace, links), 3),
        sync_latency_us=round(settle, 3),
        pending_limit=max(1024, max(pending.values(), default=0) + 1),
    )


def _last_end(work: Any) -> Callable[[float], float]:
    """A function: when the last work that ended by a moment ended."""
    ends = np.sort(work.end).tolist()

    def before(at: float) -> float:
        index = bisect_right(ends, at)
        return ends[index - 1] if index else float("-inf")

    return before


def _works_by_call(links: Links) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for row, call in enumerate(links.call_of_work.tolist()):
        if call >= 0:
            found.setdefault(call, []).append(row)
    return found


def _stream_numbers(work: Any) -> dict[tuple[int, int], int]:
    pairs = sorted(set(zip(work.device.tolist(), work.stream.tolist(), strict=True)))
    return {pair: number for number, pair in enumerate(pairs)}


def _begin(trace: Trace, links: Links, phases: Phases, events: Sequence[int]) -> float:
    """When the host's lane begins: with the call, else with the op around the first event."""
    first = float(trace.calls.ts[events[0]])
    if phases.window and phases.window[0] <= first:
        return phases.window[0]
    chain = links.op_nest.chain(int(links.op_of_call[events[0]]))
    return float(trace.ops.ts[chain[-1]]) if chain else first


def _host_spans(trace: Trace, links: Links, events: Sequence[int]) -> Any:
    """When the launching threads were in an op or a runtime call."""
    lanes = np.unique(trace.calls.lane[np.asarray(events)])
    ops = np.isin(trace.ops.lane, lanes)
    calls = np.isin(trace.calls.lane, lanes)
    return np.concatenate(
        [
            intervals.spans(trace.ops.ts[ops], trace.ops.dur[ops]),
            intervals.spans(trace.calls.ts[calls], trace.calls.dur[calls]),
        ]
    )


def _prefix(merged: Any) -> Callable[[float], float]:
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


def _pending(calls: Any, work: Any, links: Links) -> dict[int, int]:
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
    latencies: list[float] = []
    smallest: list[float] = []
    for device, stream in sorted(set(zip(work.device.tolist(), work.stream.tolist(), strict=True))):
        rows = np.flatnonzero((work.device == device) & (work.stream == stream))
        call = links.call_of_work[rows]
        rows, call = rows[call >= 0], call[call >= 0]
        if not len(rows):
            continue
        free = np.concatenate([[-np.inf], np.maximum.accumulate(work.end[rows])[:-1]])
        delay = work.ts[rows] - calls.ts[call]
        smallest += delay[delay >= 0].tolist()
        latencies += delay[(free <= calls.ts[call]) & (delay >= 0)].tolist()
    if latencies:
        return float(np.median(latencies))
    return min(smallest, default=0.0)


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
                first=first,
                last=last,
                host_us=round(end - start, 3),
                device_us=round(float(device[first:last].sum()), 3),
            )
        )
    return tuple(rows)
