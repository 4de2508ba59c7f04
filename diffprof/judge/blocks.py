"""A timeline of one stream in blocks: how long launches take that a host issues and a device runs in order.

The same recursion as `diffprof.judge.timeline.replay`: between two waits every time is a maximum or a sum of
earlier ones, so a running sum and a running maximum give all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from diffprof.model.recording import Timeline

if TYPE_CHECKING:
    from diffprof.judge.timeline import Without

Times: TypeAlias = NDArray[np.float64]
Rows: TypeAlias = NDArray[np.int64]

State: TypeAlias = tuple[float, float, Times]
"""When the CPU and the device are done, and the launches that may be in the stream still."""

UNLIMITED = 1 << 16
"""Launches that a stream holds, from which it is never full."""

ROUNDING_US = 1e-6
"""Up to which two times are one: sums of so many numbers are no more exact."""

NOTHING: Times = np.empty(0)
"""No launch is in the stream."""


class Block(NamedTuple):
    """Launches between two waits, no more of them than a stream holds.

    host: time of the CPU since the block's begin until each is issued; device: device time until each has
    run; before: until the one before it has. rest: host time after the last one. waits: whether the CPU
    waits at the end. first, last: its events; places: those that launch.
    """

    host: Times
    device: Times
    before: Times
    rest: float
    waits: bool
    first: int
    last: int
    places: Rows


class HostAndDevice:
    """A host and a device. latency, settle: of a launch and of a wait, in microseconds. limit: launches that
    the stream holds."""

    def __init__(self, latency: float, settle: float, limit: int) -> None:
        self._latency = latency
        self._settle = settle
        self._limit = limit

    def run(self, blocks: Iterable[Block]) -> float:
        """Microseconds from the first launch until CPU and device are done: the last times of `steps`.
        Blocks that come again, and find host and device as they did before, take as long again."""
        todo = list(blocks)
        now = free = 0.0
        ends = NOTHING
        seen: dict[int, tuple[int, State]] = {}
        at = 0
        while at < len(todo):
            block = todo[at]
            if id(block) in seen and (again := self._again(todo, at, seen[id(block)], (now, free, ends))):
                at, longer = again
                now, free, ends = now + longer, free + longer, ends + longer
                seen.clear()
                continue
            seen[id(block)] = at, (now, free, ends)
            at += 1
            if len(ends) or not (block.waits or self._limit >= UNLIMITED):
                _, _, now, free, ends = self._step(block, now, free, ends)
                continue
            if len(block.host):  # no launch waits for room, before or after: the last is all that is needed
                begins = now + block.host
                last = float(begins[-1])
                begins += self._latency
                begins -= block.before
                now, free = last, max(float(begins.max()), free) + float(block.device[-1])
            now += block.rest
            if block.waits:
                now = max(now, free) + self._settle
        return max(now, free)

    @staticmethod
    def _again(
        blocks: Sequence[Block], at: int, before: tuple[int, State], here: State
    ) -> tuple[int, float] | None:
        """Where the blocks end that are those since `before` again and take as long, and what they take; None
        without any. before: where this block was, and the state there; here: the state at it."""
        first, (now, free, ends) = before
        took, length = here[0] - now, at - first
        if abs(free + took - here[1]) > ROUNDING_US or len(ends) != len(here[2]):
            return None
        if (np.abs(ends + took - here[2]) > ROUNDING_US).any():
            return None
        end = at
        while end < len(blocks) and blocks[end] is blocks[end - length]:
            end += 1
        times = (end - at) // length
        return (at + times * length, times * took) if times else None

    def steps(self, blocks: Iterable[Block]) -> Iterator[tuple[Times, Times, float, float]]:
        """For each block: when its launches are issued and done, and when host and device are, after it."""
        now = free = 0.0
        ends = NOTHING
        for block in blocks:
            issued, done, now, free, ends = self._step(block, now, free, ends)
            yield issued, done, now, free

    def _step(
        self, block: Block, now: float, free: float, ends: Times
    ) -> tuple[Times, Times, float, float, Times]:
        """What `steps` tells of a block, and `ends` after it. now, free: host and device before it. ends: of
        the launches that may be in the stream still, never falling."""
        issued = now + block.host
        done = issued + self._latency
        if count := len(issued):
            over = len(ends) + count - self._limit
            if over > 0 and ends[over - 1] > now:
                late = np.maximum(ends[:over] - block.host[-over:], now)
                issued[-over:] = np.maximum.accumulate(late) + block.host[-over:]
                done = issued + self._latency
            done -= block.before
            np.maximum(done, free, out=done)
            np.maximum.accumulate(done, out=done)
            done += block.device
            now, free = float(issued[-1]), float(done[-1])
            if self._limit < UNLIMITED:
                ends = np.concatenate((ends[max(over, 0) :], done)) if len(ends) else done
        now += block.rest
        if block.waits:
            now, ends = max(now, free) + self._settle, NOTHING
        return issued, done, now, free, ends

    def times(self, columns: Columns) -> tuple[Times, ...]:
        """When the CPU begins and ends each event, and the device what it launches (-1: nothing), and when
        the CPU begins to wait (-1: not at all)."""
        count = len(columns.host)
        host_start, host_end = np.empty(count), np.empty(count)
        device_start, device_end, wait_start = (np.full(count, -1.0) for _ in range(3))
        blocks = cut(columns.host, columns.device, columns.sync, self._limit)
        begun = 0.0
        for block, (issued, done, now, _) in zip(blocks, self.steps(blocks), strict=True):
            here = slice(block.first, block.last)
            late = np.zeros(block.last - block.first)
            late[block.places - block.first] = np.diff(issued - block.host, prepend=begun)
            ends = begun + np.cumsum(columns.host[here]) + np.cumsum(late)
            host_end[here], host_start[block.first], begun = ends, begun, now
            host_start[block.first + 1 : block.last] = ends[:-1]
            device_end[block.places] = done
            device_start[block.places] = done - columns.device[block.places]
            if block.waits:
                wait_start[block.last - 1], host_end[block.last - 1] = ends[-1], now
        return host_start, host_end, device_start, device_end, wait_start


class Columns(NamedTuple):
    """Of a timeline: kind of each event, time of the CPU and the device in microseconds, rows of waits."""

    kind: Rows
    host: Times
    device: Times
    sync: Rows

    def launching(self, kinds: Iterable[int], within: range) -> list[int]:
        """Events among these that launch one of these kinds."""
        return _events(np.isin(self.kind, list(kinds)), within)

    def waiting(self, within: range) -> list[int]:
        """Events among these that wait."""
        return _events(self.sync != -1, within)

    def of_the_host(self, within: range) -> list[int]:
        """Events among these that are Python alone: no operation, no wait."""
        return _events((self.kind < 0) & (self.sync == -1), within)

    def rows(self, within: range) -> frozenset[int]:
        """Rows of waits among these events."""
        return frozenset(np.unique(self.sync[within.start : within.stop]).tolist()) - {-1}

    def work_us(self, events: list[int]) -> float:
        """Time of the CPU or of the device in these events, whichever is more."""
        return float(max(self.host[events].sum(), self.device[events].sum()))

    def device_us(self, kinds: Iterable[int]) -> tuple[float, int]:
        """Device time of these kinds, and how many events launch one."""
        times = self.device[np.isin(self.kind, list(kinds))]
        return float(times.sum()), len(times)

    def without(self, without: Without, launch_us: float, module_us: float) -> tuple[Times, Times, Rows]:
        """Host, device and waits with this left out, as `diffprof.judge.timeline` says. launch_us: the most
        that the CPU saves with one launch; module_us: with one module's call."""
        host, device, sync = self.host, self.device, self.sync
        if without.kind_us:
            becomes = self._by_kind(without.kind_us, np.nan)
            device = np.where(np.isnan(becomes), device, becomes)
            host = np.where((device == 0.0) & (self.device > 0.0), np.maximum(0.0, host - launch_us), host)
        if without.kind_host:
            host = host * self._by_kind(without.kind_host, 1.0)
        if without.waits:
            sync = np.where(np.isin(sync, list(without.waits)), -1, sync)
        if without.events:
            events = np.fromiter(without.events, dtype=np.int64)
            host, device, sync = host.copy(), device.copy(), sync.copy()
            inside = np.fromiter(without.whole - without.events, dtype=np.int64)
            host[inside] = np.maximum(0.0, host[inside] - module_us)
            gone = (self.kind[events] < 0) & (self.sync[events] == -1)
            gone |= np.isin(events, list(without.whole))
            host[events] = np.where(gone, 0.0, np.maximum(0.0, host[events] - launch_us))
            device[events], sync[events] = 0.0, -1
        return host, device, sync

    def _by_kind(self, values: Mapping[int, float], default: float) -> Times:
        table = np.full(int(self.kind.max()) + 2, default)  # the last is that of -1: of the CPU alone
        for kind, value in values.items():
            if kind < len(table) - 1:
                table[kind] = value
        found: Times = table[self.kind]
        return found


def _events(chosen: NDArray[np.bool_], within: range) -> list[int]:
    return (np.flatnonzero(chosen[within.start : within.stop]) + within.start).tolist()


def columns(timeline: Timeline) -> Columns:
    """The columns of a timeline as arrays."""
    kind, sync = (np.array(column, dtype=np.int64) for column in (timeline.kind, timeline.sync))
    return Columns(kind, np.array(timeline.host_us), np.array(timeline.device_us), sync)


def cut_at_steps(
    host: Times, device: Times, sync: Rows, limit: int, steps: Iterable[tuple[int, int]]
) -> list[Block]:
    """`cut`, at these steps as well: one that is the one before it again is the same blocks, whose events
    count from the begin of the first such step."""
    found: list[Block] = []
    blocks: list[Block] = []
    before: slice | None = None
    at = 0
    for first, last in steps:
        if first < at:
            continue
        found += cut(host[at:first], device[at:first], sync[at:first], limit)
        step, at = slice(first, last), last
        if before is None or not all(
            np.array_equal(each[before], each[step]) for each in (host, device, sync)
        ):
            blocks = cut(host[step], device[step], sync[step], limit)
        found += blocks
        before = step
    return found + cut(host[at:], device[at:], sync[at:], limit)


def cut(host: Times, device: Times, sync: Rows, limit: int) -> list[Block]:
    """Columns of a timeline in blocks. sync: -1 where the CPU does not wait."""
    waiting = sync != -1
    launches = np.flatnonzero(device > 0.0)
    blocks = []
    at = begun = 0
    ends: Rows = np.append(np.flatnonzero(waiting) + 1, len(host))
    counts: Rows = np.searchsorted(launches, ends)
    for end, count in zip(ends.tolist(), counts.tolist(), strict=True):
        while at < end:
            whole = count - begun <= limit
            places = launches[begun : count if whole else begun + limit]
            until = end if whole else int(places[-1]) + 1
            own: Rows = places - at
            issued, ran = np.cumsum(host[at:until]), np.cumsum(device[at:until])[own]
            rest = float(issued[-1] - (issued[own[-1]] if len(own) else 0.0))
            before = np.concatenate((np.zeros(min(len(own), 1)), ran[:-1]))
            waits = whole and bool(waiting[end - 1])
            blocks.append(Block(issued[own], ran, before, rest, waits, at, until, places))
            at, begun = until, begun + len(places)
    return blocks
