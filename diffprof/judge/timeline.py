"""Run a recorded timeline again, whole or with parts left out: what would removing this save?

The CPU goes through the events in order; each costs it `host_us`, and may launch device work. The device
executes the launches of one stream in order: a kernel starts when the stream is free and the launch has
arrived (`launch_latency_us` after the call), whichever is later, and as late after it as was recorded. A
stream holds at most `pending_limit` unfinished launches; the CPU waits before it adds one more. An event
that blocks makes the CPU wait until its stream has drained, plus `sync_latency_us`, or what the event took
beyond it.

Every time is a maximum or a sum of earlier ones, so leaving out an event, a wait or a microsecond never
makes anything later.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from diffprof.judge.steps import nearly_repeating, repeating, steps_of, with_steps
from diffprof.model.recording import Grade, Timeline, median

if TYPE_CHECKING:
    from diffprof.judge.blocks import Columns, HostAndDevice

ALL_STREAMS = -1
"""Stream of an event that waits for the whole device."""

NOT_BLOCKING = -1
"""Value of `Timeline.sync` for an event that does not wait."""


class Without(msgspec.Struct, frozen=True):
    """What to leave out of a replay.

    waits: sync rows whose wait is dropped; the operation itself stays.
    events: events dropped: the CPU's time for the launch, device work and wait.
    whole: those whose modules are not called either: all of the CPU's time of events that are dropped, and
    one module's call of others, such as those inside a wrapper that goes.
    kind_us: kind -> device time of each of its calls instead of the recorded one; 0 drops the launch too.
    kind_host: kind -> share of the host time of its calls that is left, 0..1.
    """

    waits: frozenset[int] = frozenset()
    events: frozenset[int] = frozenset()
    whole: frozenset[int] = frozenset()
    kind_us: Mapping[int, float] = {}
    kind_host: Mapping[int, float] = {}

    def __bool__(self) -> bool:
        return bool(self.waits or self.events or self.kind_us or self.kind_host)


NOTHING = Without()


class Replay(msgspec.Struct, frozen=True):
    """One run of a timeline. Times in microseconds from the call's start."""

    total_us: float
    """When CPU and device are done."""
    host_end_us: float
    device_busy_us: float
    """Time in which at least one stream worked."""
    blocked_us: dict[int, float]
    """Sync row -> host time spent waiting, latency included; -2 for blocking events without a row."""
    throttled_us: float
    """Host time spent waiting for room in the launch queue."""
    host_start: tuple[float, ...] = ()
    host_end: tuple[float, ...] = ()
    device_start: tuple[float, ...] = ()
    """Start on the device; -1.0 for events that launch nothing."""
    device_end: tuple[float, ...] = ()
    wait_start: tuple[float, ...] = ()
    """When the CPU began to wait; -1.0 for events that don't block."""


def replay(timeline: Timeline, without: Without = NOTHING) -> Replay:
    """Run the timeline, leaving `without` out, and keep when each event ran.

    An event that is left out has the times at which it would have been issued and no length. The run of the
    last timeline as it is is kept: it is asked for again and again.
    """
    if without:
        return _replay(timeline, without)
    known = _known(timeline)
    if known.run is None:
        known.run = _in_blocks(known) if _is_long(timeline) else _replay(timeline, without)
    return known.run


def _is_long(timeline: Timeline) -> bool:
    """Whether it is run in blocks: arrays pay off, and the recording has nothing that they leave out."""
    return len(timeline.host_us) >= LONG and _is_plain(timeline)


def _is_plain(timeline: Timeline) -> bool:
    """Whether it has one stream, and nothing that arrays leave out."""
    return not (timeline.settle_us or timeline.late_us) and _known(timeline).one_stream


def _in_blocks(known: _Known) -> Replay:
    columns = known.columns()
    host_start, host_end, device_start, device_end, wait_start = known.host_and_device().times(columns)
    waits = {
        row: float((host_end[events] - wait_start[events]).sum()) for row, events in known.waiting.items()
    }
    runs = device_end >= 0.0
    latest = float(device_end.max(initial=0.0))
    held = host_end.copy()
    held[wait_start >= 0.0] = wait_start[wait_start >= 0.0]
    throttled = float((held - host_start - columns.host).sum())
    return Replay(
        total_us=max(float(host_end[-1]), latest),
        host_end_us=float(host_end[-1]),
        device_busy_us=float(columns.device[runs].sum()),
        blocked_us=waits,
        throttled_us=throttled,
        host_start=tuple(host_start.tolist()),
        host_end=tuple(host_end.tolist()),
        device_start=tuple(device_start.tolist()),
        device_end=tuple(device_end.tolist()),
        wait_start=tuple(wait_start.tolist()),
    )


class _Known:
    """What was told of one timeline: a plan asks for the same again and again. waiting: row of a wait -> its
    events."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline
        self.run: Replay | None = None
        self._columns: Columns | None = None
        self.lengths: dict[tuple[frozenset, ...], float] = {}
        self.at_steps: dict[int, float | None] = {}
        self.one_stream = not set(timeline.stream) - {*timeline.stream[:1], ALL_STREAMS}
        self.waiting: dict[int, list[int]] = {}
        for event, row in enumerate(timeline.sync):
            if row != NOT_BLOCKING:
                self.waiting.setdefault(row, []).append(event)

    @cached_property
    def steps(self) -> tuple[tuple[int, int], ...]:
        return steps_of(self.timeline)

    def columns(self) -> Columns:
        """As arrays."""
        if self._columns is None:
            from diffprof.judge.blocks import columns

            self._columns = columns(self.timeline)
        return self._columns

    def host_and_device(self) -> HostAndDevice:
        from diffprof.judge.blocks import HostAndDevice

        timeline = self.timeline
        return HostAndDevice(timeline.launch_latency_us, timeline.sync_latency_us, timeline.pending_limit)


_LAST: list[_Known] = []
"""Of the two timelines that were asked for last: a finding asks for one that differs, and the next for its
own again."""


def columns_of(timeline: Timeline) -> Columns:
    """A timeline as arrays; those of the last are kept."""
    return _known(timeline).columns()


def _known(timeline: Timeline) -> _Known:
    found = next((known for known in _LAST if known.timeline is timeline), None) or _Known(timeline)
    _LAST[:] = [found, *(known for known in _LAST if known is not found)][:2]
    return found


def _replay(timeline: Timeline, without: Without) -> Replay:
    host, device, stream, sync = _columns(timeline, without)
    latency = timeline.launch_latency_us
    limit = timeline.pending_limit
    latest = 0.0
    ends: dict[int, list[float]] = {}
    blocked: dict[int, float] = {}
    throttled = 0.0
    now = 0.0
    host_start: list[float] = []
    host_end: list[float] = []
    device_start: list[float] = []
    device_end: list[float] = []
    wait_start: list[float] = []
    waiting = zip(stream, sync, _settles(timeline), _lates(timeline), strict=True)
    for spent, work, (own, row, settle, late) in zip(host, device, waiting, strict=True):
        host_start.append(now)
        now += spent
        if work > 0.0:
            done = ends.setdefault(own, [])
            if len(done) >= limit and done[-limit] > now:
                throttled += done[-limit] - now
                now = done[-limit]
            start = now + latency
            if done and done[-1] > start:
                start = done[-1]
            start += late
            done.append(start + work)
            latest = max(latest, start + work)
            device_start.append(start)
            device_end.append(start + work)
        else:
            device_start.append(-1.0)
            device_end.append(-1.0)
        if row != NOT_BLOCKING:
            wait_start.append(now)
            free = latest if own == ALL_STREAMS else ends[own][-1] if ends.get(own) else 0.0
            end = (free if free > now else now) + settle
            blocked[row] = blocked.get(row, 0.0) + end - now
            now = end
        else:
            wait_start.append(-1.0)
        host_end.append(now)
    return Replay(
        total_us=max(now, latest),
        host_end_us=now,
        device_busy_us=_busy(device_start, device_end, len(ends)),
        blocked_us=blocked,
        throttled_us=throttled,
        host_start=tuple(host_start),
        host_end=tuple(host_end),
        device_start=tuple(device_start),
        device_end=tuple(device_end),
        wait_start=tuple(wait_start),
    )


def by_kind_us(timeline: Timeline) -> list[float]:
    """Device time of all launches of each kind, microseconds."""
    import numpy as np

    kind, spent = np.array(timeline.kind, dtype=np.int64), np.array(timeline.device_us)
    known = kind >= 0
    sums: list[float] = np.bincount(kind[known], spent[known], len(timeline.kinds)).tolist()
    return sums


def origin_shares(timeline: Timeline) -> dict[str, float]:
    """Share of the device's time by where it comes from; empty where no kernel says so."""
    sums: dict[str, float] = {}
    for kind, us in zip(timeline.kinds, by_kind_us(timeline), strict=True):
        if kind.origin is not None:
            sums[kind.origin] = sums.get(kind.origin, 0.0) + us
    whole = sum(sums.values())
    return {origin: us / whole for origin, us in sorted(sums.items()) if us} if whole else {}


def length_us(timeline: Timeline) -> float:
    """`total_us` of a timeline that nothing else is asked of: no more than the length is worked out."""
    if not _is_plain(timeline):
        return _replay(timeline, NOTHING).total_us
    from diffprof.judge.blocks import cut_at_steps

    known = _known(timeline)
    own = known.columns()
    return known.host_and_device().run(
        cut_at_steps(own.host, own.device, own.sync, timeline.pending_limit, known.steps)
    )


def total_us(timeline: Timeline, without: Without = NOTHING) -> float:
    """Length of the run; the same as `replay(...).total_us`, several times faster on one stream. Of a long
    timeline, what is left out counts as nothing where it saves less than sums of so many numbers are exact.

    A plan asks for the same again and again: what was told of the last timeline is kept.
    """
    known = _known(timeline).lengths
    key = (
        without.waits,
        without.events,
        without.whole,
        frozenset(without.kind_us.items()),
        frozenset(without.kind_host.items()),
    )
    if key not in known:
        known[key] = _total_us(timeline, without)
    return known[key]


LONG = 10_000
"""Events from which a timeline is run in blocks."""

EXACT = 1e-9
"""Share of a long timeline's length up to which sums in another order may differ."""


def _total_us(timeline: Timeline, without: Without) -> float:
    if not without or len(set(timeline.stream) - {ALL_STREAMS}) > 1:
        return replay(timeline, without).total_us
    if not _is_long(timeline):
        host, device, _, sync = _columns(timeline, without)
        return _one_after_another(timeline, host, device, sync)
    from diffprof.judge.blocks import cut_at_steps

    known = _known(timeline)
    left = known.columns().without(without, launch_us(timeline), timeline.module_us)
    found = known.host_and_device().run(cut_at_steps(*left, timeline.pending_limit, known.steps))
    whole = replay(timeline).total_us
    return whole if math.isclose(found, whole, rel_tol=EXACT) else found


def _one_after_another(
    timeline: Timeline, host: Sequence[float], device: Sequence[float], sync: Sequence[int]
) -> float:
    latency = timeline.launch_latency_us
    limit = timeline.pending_limit
    ends: list[float] = []
    append = ends.append
    now = free = 0.0
    count = 0
    columns = zip(host, device, sync, _settles(timeline), _lates(timeline), strict=True)
    for spent, work, row, settle, late in columns:
        now += spent
        if work > 0.0:
            if count >= limit and ends[count - limit] > now:
                now = ends[count - limit]
            count += 1
            start = now + latency
            free = (free if free > start else start) + late + work
            append(free)
        if row != NOT_BLOCKING:
            now = (free if free > now else now) + settle
    return max(now, free)


def saved_us(timeline: Timeline, without: Without, baseline_us: float | None = None) -> float:
    """How much shorter the run is without it; never negative."""
    if not without:
        return 0.0
    whole = total_us(timeline) if baseline_us is None else baseline_us
    return max(0.0, whole - total_us(timeline, without))


def events_of_syncs(timeline: Timeline, rows: Sequence[int]) -> tuple[int, ...]:
    """Events that block because of these sync rows."""
    waiting = _known(timeline).waiting if rows else {}
    return tuple(sorted(event for row in set(rows) for event in waiting.get(row, ())))


def waits_in(timeline: Timeline) -> Collection[int]:
    """The rows of waits that it has."""
    return _known(timeline).waiting.keys()


def events_of_kinds(timeline: Timeline, kinds: Sequence[int]) -> tuple[int, ...]:
    """Events that launch one of these kinds."""
    wanted = set(kinds)
    return tuple(i for i, kind in enumerate(timeline.kind) if kind in wanted)


def length_with_steps_us(timeline: Timeline, count: int) -> float | None:
    """`length_us` of `with_steps`, of which no more is made than is run; where no step is another one again,
    with one that is nearly. What was told of the last timeline is kept."""
    known = _known(timeline).at_steps
    if count not in known:
        known[count] = _length_with_steps_us(timeline, count)
    return known[count]


def _length_with_steps_us(timeline: Timeline, count: int) -> float | None:
    missing = count - len(steps_of(timeline))
    if missing <= 0 or not _is_plain(timeline):
        whole = with_steps(timeline, count)
        return None if whole is None else length_us(whole)
    exact = repeating(timeline)
    found = nearly_repeating(timeline) if exact is None else exact[1:]
    if found is None:
        return None
    import numpy as np

    from diffprof.judge.blocks import cut

    first, last = found

    known = _known(timeline)
    own = known.columns()
    host, device, sync = (
        np.concatenate((column[:last], np.tile(column[first:last], missing), column[last:]))
        for column in (own.host, own.device, own.sync)
    )
    return known.host_and_device().run(cut(host, device, sync, timeline.pending_limit))


def _columns(
    timeline: Timeline, without: Without
) -> tuple[Sequence[float], Sequence[float], Sequence[int], Sequence[int]]:
    host: Sequence[float] = timeline.host_us
    device: Sequence[float] = timeline.device_us
    sync: Sequence[int] = timeline.sync
    if without.kind_us:
        kinds = without.kind_us
        new_us = [kinds.get(k, work) for k, work in zip(timeline.kind, device, strict=True)]
        # A launch that disappears takes the CPU's time for it along.
        own = launch_us(timeline)
        host = [
            max(0.0, spent - own) if new == 0.0 < old else spent
            for spent, new, old in zip(host, new_us, device, strict=True)
        ]
        device = new_us
    if without.kind_host:
        left = without.kind_host
        host = [spent * left.get(kind, 1.0) for spent, kind in zip(host, timeline.kind, strict=True)]
    if without.waits:
        waits = without.waits
        sync = [NOT_BLOCKING if row in waits else row for row in sync]
    if without.events:
        host, device, sync = list(host), list(device), list(sync)
        own = launch_us(timeline)
        for event in without.whole - without.events:
            host[event] = max(0.0, host[event] - timeline.module_us)
        for event in without.events:
            is_python = timeline.kind[event] < 0 and timeline.sync[event] == NOT_BLOCKING
            host[event] = 0.0 if is_python or event in without.whole else max(0.0, host[event] - own)
            device[event] = 0.0
            sync[event] = NOT_BLOCKING
    return host, device, timeline.stream, sync


def launch_us(timeline: Timeline) -> float:
    """The most that the CPU saves with one launch. In a simulated timeline an event's host time is its own
    and that of the modules that are called before it, which stay; in a measured one it holds all since the
    last launch, so no more than the usual one is taken off."""
    if timeline.grade is Grade.SIMULATED:
        return math.inf if timeline.op_us is None else timeline.op_us
    spent = [
        us for us, work in zip(timeline.host_us, timeline.device_us, strict=True) if work > 0.0 and us > 0.0
    ]
    return median(spent) if spent else 0.0


def _settles(timeline: Timeline) -> Sequence[float]:
    return timeline.settle_us or [timeline.sync_latency_us] * len(timeline.host_us)


def _lates(timeline: Timeline) -> Sequence[float]:
    return timeline.late_us or [0.0] * len(timeline.host_us)


def _busy(starts: Sequence[float], ends: Sequence[float], streams: int) -> float:
    if streams <= 1:
        return sum(end - start for start, end in zip(starts, ends, strict=True))
    busy = free = 0.0
    for start, end in sorted(zip(starts, ends, strict=True)):
        if end > free:
            busy += end - max(start, free)
            free = end
    return busy
