"""A replayed timeline as tracks that can be asked how busy they were in any stretch of time. Plain data.

Times are in microseconds from the call's start.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from diffprof.judge.timeline import NOT_BLOCKING, NOTHING, Replay, Without, replay
from diffprof.model.recording import Timeline


class Stretches:
    """Stretches of time in order, none over another."""

    def __init__(self, spans: Sequence[tuple[float, float]]) -> None:
        """spans: (start, end), sorted; what overlaps is counted once."""
        starts: list[float] = []
        ends: list[float] = []
        for start, end in spans:
            if ends and start < ends[-1]:
                start = ends[-1]
            if end > start:
                starts.append(start)
                ends.append(end)
        self.starts, self.ends = starts, ends
        self._total = [0.0, *accumulate(end - start for start, end in zip(starts, ends, strict=True))]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def total_us(self) -> float:
        return self._total[-1]

    def until(self, time: float) -> float:
        """Busy time before `time`."""
        count = bisect_right(self.starts, time)
        if count and self.ends[count - 1] > time:
            return self._total[count] - (self.ends[count - 1] - time)
        return self._total[count]

    def share(self, start: float, end: float) -> float:
        """Of a stretch of time, 0..1."""
        return (self.until(end) - self.until(start)) / (end - start) if end > start else 0.0


@dataclass(frozen=True)
class TrackWait:
    """A wait of the CPU. row: of Recording.syncs; negative where it has none."""

    start_us: float
    end_us: float
    row: int
    event: int


@dataclass(frozen=True)
class TrackPhase:
    """A phase, or a step of the loop, as one track went through it."""

    name: str
    start_us: float
    end_us: float


@dataclass(frozen=True)
class TimelineTracks:
    """host: at work; full: held up by a full launch queue; waits: blocked. device: by stream; families: by
    kind of kernel, the largest first."""

    timeline: Timeline
    run: Replay
    host: Stretches
    full: Stretches
    waits: Stretches
    device: dict[int, Stretches]
    families: dict[str, Stretches]
    marks: tuple[TrackWait, ...]
    host_parts: tuple[TrackPhase, ...]
    device_parts: tuple[TrackPhase, ...]
    _launches: tuple[int, ...] = field(repr=False)
    """Events that ran on the device, by their start there."""
    _launch_starts: tuple[float, ...] = field(repr=False)
    _mark_starts: tuple[float, ...] = field(repr=False)

    @property
    def total_us(self) -> float:
        return self.run.total_us

    def marks_in(self, start: float, end: float) -> tuple[TrackWait, ...]:
        """The waits that begin in a stretch of time."""
        starts = self._mark_starts
        return self.marks[bisect_left(starts, start) : bisect_left(starts, end)]

    def mark_beside(self, time: float, *, before: bool) -> TrackWait | None:
        """The nearest wait before or after a time."""
        starts = self._mark_starts
        place = bisect_left(starts, time) - 1 if before else bisect_right(starts, time)
        return self.marks[place] if 0 <= place < len(self.marks) else None

    def host_event(self, time: float) -> int | None:
        """The event that the CPU was at."""
        place = bisect_right(self.run.host_start, time) - 1
        return place if place >= 0 and time < self.run.host_end[place] else None

    def device_event(self, time: float) -> int | None:
        """The event that ran on the device; of several streams, the one that started last."""
        place = bisect_right(self._launch_starts, time) - 1
        if place < 0:
            return None
        event = self._launches[place]
        return event if time < self.run.device_end[event] else None

    def device_events(self, start: float, end: float) -> Sequence[int]:
        """Events that started on the device in a stretch of time."""
        starts = self._launch_starts
        return self._launches[bisect_left(starts, start) : bisect_left(starts, end)]


def tracks_of(timeline: Timeline, without: Without = NOTHING) -> TimelineTracks:
    """Replay a timeline and sort out who was busy when."""
    run = replay(timeline, without)
    host: list[tuple[float, float]] = []
    full: list[tuple[float, float]] = []
    waits: list[tuple[float, float]] = []
    marks: list[TrackWait] = []
    for event, spent in enumerate(timeline.host_us):
        start, end = run.host_start[event], run.host_end[event]
        worked = min(start + spent, end)
        waited = run.wait_start[event]
        host.append((start, worked))
        if waited >= 0.0:
            full.append((worked, waited))
            waits.append((waited, end))
            if timeline.sync[event] != NOT_BLOCKING:
                marks.append(TrackWait(waited, end, timeline.sync[event], event))
        else:
            full.append((worked, end))
    order = sorted((n for n, t in enumerate(run.device_start) if t >= 0.0), key=run.device_start.__getitem__)
    streams: dict[int, list[tuple[float, float]]] = {}
    families: dict[str, list[tuple[float, float]]] = {}
    for event in order:
        span = (run.device_start[event], run.device_end[event])
        streams.setdefault(timeline.stream[event], []).append(span)
        kind = timeline.kind[event]
        families.setdefault(timeline.kinds[kind].family if kind >= 0 else "other", []).append(span)
    by_family = {name: Stretches(spans) for name, spans in families.items()}
    host_parts, device_parts = _parts(timeline, run)
    return TimelineTracks(
        timeline=timeline,
        run=run,
        host=Stretches(host),
        full=Stretches(full),
        waits=Stretches(waits),
        device={track: Stretches(streams[track]) for track in sorted(streams)},
        families=dict(sorted(by_family.items(), key=lambda item: -item[1].total_us)),
        marks=tuple(marks),
        host_parts=host_parts,
        device_parts=device_parts,
        _launches=tuple(order),
        _launch_starts=tuple(run.device_start[event] for event in order),
        _mark_starts=tuple(mark.start_us for mark in marks),
    )


def _parts(timeline: Timeline, run: Replay) -> tuple[tuple[TrackPhase, ...], tuple[TrackPhase, ...]]:
    """Neighbouring spans of one phase and step, joined: where the CPU and where the device went through."""
    joined: list[tuple[str, int, int]] = []
    for span in sorted(timeline.phases, key=lambda each: (each.first, -each.last)):
        name = span.name if span.step is None else f"step {span.step + 1}"
        if joined and joined[-1][0] == name:
            joined[-1] = (name, joined[-1][1], max(joined[-1][2], span.last))
        elif span.last > span.first:
            joined.append((name, span.first, span.last))
    host: list[TrackPhase] = []
    device: list[TrackPhase] = []
    count = len(run.host_end)
    for name, first, last in joined:
        last = min(last, count)
        if first >= last:
            continue
        host.append(TrackPhase(name, run.host_start[first], run.host_end[last - 1]))
        ran = [n for n in range(first, last) if run.device_start[n] >= 0.0]
        if ran:
            device.append(
                TrackPhase(name, min(run.device_start[n] for n in ran), max(run.device_end[n] for n in ran))
            )
    return tuple(host), tuple(device)


@dataclass(frozen=True)
class Window:
    """The stretch of time on the screen, and how it moves. Never outside of the call, never empty."""

    start_us: float
    end_us: float
    total_us: float

    LEAST_US = 1.0

    @property
    def length_us(self) -> float:
        return self.end_us - self.start_us

    def zoomed(self, factor: float, around_us: float) -> Window:
        """A window `factor` times as long, in which `around_us` keeps its place."""
        length = max(self.LEAST_US, min(self.length_us * factor, self.total_us))
        place = (around_us - self.start_us) / self.length_us if self.length_us else 0.5
        return self.at(around_us - place * length, length)

    def moved(self, by_us: float) -> Window:
        return self.at(self.start_us + by_us, self.length_us)

    def at(self, start_us: float, length_us: float) -> Window:
        """The window of that length that starts there, or as near as the call allows."""
        length = max(self.LEAST_US, min(length_us, self.total_us))
        start = max(0.0, min(start_us, self.total_us - length))
        return Window(start, start + length, self.total_us)

    def showing(self, start_us: float, end_us: float) -> Window:
        """A window around a stretch of time, with a margin."""
        length = (end_us - start_us) * 1.1
        return self.at(start_us - length / 22, length)


def ticks(start_us: float, end_us: float, most: int) -> list[float]:
    """Round times in a window, at most that many."""
    length = end_us - start_us
    if length <= 0 or most < 1:
        return []
    step = 10.0**-3
    while True:
        for factor in (1, 2, 5):
            if length / (step * factor) <= most:
                gap = step * factor
                first = -(-start_us // gap)
                found = []
                while first * gap < end_us:
                    found.append(first * gap)
                    first += 1
                return found
        step *= 10


def time_text(us: float, gap_us: float) -> str:
    """A time on the ruler, as fine as the ticks' distance asks for."""
    if gap_us >= 1e6:
        return f"{us / 1e6:g} s"
    if gap_us >= 1e3 or us >= 1e4:
        digits = 0 if gap_us >= 1e3 else 1 if gap_us >= 100 else 2 if gap_us >= 10 else 3
        return f"{us / 1e3:,.{digits}f} ms"
    return f"{us:,.{0 if gap_us >= 1 else 2}f} us"
