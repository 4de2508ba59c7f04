"""The denoising loop of a timeline: its idle time, its parts, its waits. What several rules ask for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

from msgspec.structs import replace

from diffprof.judge.gaps import find_gaps
from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import Replay, columns_of, replay, total_us
from diffprof.model.recording import GapRow, Grade, Recording, Timeline

if TYPE_CHECKING:
    from diffprof.judge.blocks import Columns


class LoopTimes:
    """Times in microseconds, summed over the loop."""

    def __init__(
        self,
        timeline: Timeline,
        *,
        or_all: bool = False,
        gaps: Sequence[GapRow] | None = None,
        whole: str = "call",
    ) -> None:
        """or_all: where no steps are known, as in most traces that others made, everything is the loop, and
        `steps` is 0. gaps: idle time as it was measured, with causes that a replay can't tell; by default the
        replay's. whole: what everything is called."""
        self.timeline = timeline
        self._measured = gaps
        self._whole = whole
        self.spans = steps_of(timeline)
        self.steps = len(self.spans)
        if or_all and not self.spans and timeline.host_us:
            self.spans = ((0, len(timeline.host_us)),)

    @classmethod
    def of(cls, recording: Recording) -> LoopTimes:
        """The loop of a recording that has a timeline, or all of it where no steps are known."""
        assert recording.timeline is not None
        measured = recording.timeline.grade is Grade.MEASURED
        return cls(
            recording.timeline,
            or_all=True,
            gaps=recording.gaps if measured else None,
            whole="trace" if recording.target.kind == "trace" else "call",
        )

    @property
    def name(self) -> str:
        """What it is, in words."""
        return "denoising loop" if self.steps else self._whole

    @property
    def model(self) -> str:
        """What runs in it, in words."""
        return "denoiser" if self.steps else "model"

    def by_step(self, events: Iterable[int]) -> list[int]:
        """How many of these events each step has; empty where no steps are known."""
        counts = [0] * self.steps
        starts = [first for first, _ in self.spans]
        for event in events:
            step = bisect_right(starts, event) - 1
            if 0 <= step < self.steps and event < self.spans[step][1]:
                counts[step] += 1
        return counts

    def at_most(self, saved_us: float, idle_us: float) -> float:
        """What a finding about idle time saves. Where no steps are known the call's own beginning and end, in
        which the device has no work yet, are part of it: only idle time between work counts. The CPU's time
        in a measured timeline is of all kinds: only idle time of this cause counts."""
        return saved_us if self.steps and self._measured is None else min(saved_us, idle_us)

    @property
    def run(self) -> Replay:
        return _facts(self.timeline)[0]

    @property
    def _gaps(self) -> tuple[GapRow, ...]:
        return _facts(self.timeline)[1]

    @cached_property
    def events(self) -> range:
        """From the first event of the loop to its last."""
        return range(self.spans[0][0], self.spans[-1][1]) if self.spans else range(0)

    @cached_property
    def window_us(self) -> tuple[float, float]:
        """When the loop's device work begins and ends."""
        run, here = self.run, slice(self.events.start, self.events.stop)
        begin = min(filter((0.0).__le__, run.device_start[here]), default=None)
        return (0.0, 0.0) if begin is None else (begin, max(run.device_end[here]))

    @property
    def length_us(self) -> float:
        begin, end = self.window_us
        return end - begin

    def idle_us(self, cause: str) -> float:
        """Idle time of the device inside the loop, by cause."""
        return sum(gap.duration_us for gap in self._idle(cause))

    def longest_idle_us(self, cause: str) -> float:
        """The longest idle stretch of this cause; of those summed up in a row their mean."""
        return max((gap.duration_us / gap.count for gap in self._idle(cause)), default=0.0)

    def _idle(self, cause: str) -> list[GapRow]:
        if self._measured is not None:
            return self.gaps(cause)
        begin, end = self.window_us
        return [gap for gap in self._gaps if gap.cause == cause and begin <= gap.start_us < end]

    def gaps(self, *causes: str) -> list[GapRow]:
        """Measured idle stretches of these causes in the loop; without steps, between the first work and the
        last."""
        found = [gap for gap in self._measured or () if gap.cause in causes]
        if self.steps:
            return [gap for gap in found if gap.phase == "denoise" and gap.step is not None]
        return [gap for gap in found if not gap.is_head]

    def inside(self, kinds: Iterable[int]) -> list[int]:
        """Events of the loop that launch one of these kinds."""
        return self._columns.launching(kinds, self.events)

    def waiting_rows(self) -> frozenset[int]:
        """Sync rows that wait in the loop; -2 stands for waits without a row."""
        return self._columns.rows(self.events)

    def waits(self) -> list[int]:
        """Events that wait."""
        return self._columns.waiting(self.events)

    def host_only(self) -> list[int]:
        """Events of the loop that are Python alone: no operation, no wait."""
        return self._columns.of_the_host(self.events)

    @property
    def _columns(self) -> Columns:
        return columns_of(self.timeline)

    def events_of(self, part: str) -> frozenset[int]:
        """Events of one part of the steps."""
        spans = [s for s in self.timeline.phases if s.step is not None and s.part == part]
        return frozenset(event for span in spans for event in range(span.first, span.last))

    def part_share(self, part: str) -> float | None:
        """Share of a step that one part takes, over the steps after the first: of its own work on the CPU
        or the device, whichever is more, not of what it waits for. None where there is no such part."""
        later = self.spans[1:]
        if not later:
            return None
        chosen = [event for event in self.events_of(part) if later[0][0] <= event < later[-1][1]]
        whole = self._wall_us(range(later[0][0], later[-1][1]))
        if not chosen or whole <= 0.0:
            return None
        return self._columns.work_us(chosen) / whole

    def _wall_us(self, events: range) -> float:
        """From the first to the last of what these events do, on host or device."""
        run = self.run
        host = run.host_end[events[-1]] - run.host_start[events[0]]
        here = slice(events.start, events.stop)
        begin = min(filter((0.0).__le__, run.device_start[here]), default=None)
        return host if begin is None else max(host, max(run.device_end[here]) - begin)

    def saved_without_host_us(self) -> float:
        """What the call would save if issuing the loop's operations cost the CPU nothing."""
        host = list(self.timeline.host_us)
        for event in self.events:
            if self.timeline.kind[event] >= 0:
                host[event] = 0.0
        return max(0.0, self.run.total_us - total_us(replace(self.timeline, host_us=tuple(host))))


def milliseconds(us: float) -> str:
    """`0.0168 ms`, `1,877 ms`: three digits, or all of those before the point."""
    return f"{us / 1e3:,.0f} ms" if us >= 100_000 else f"{us / 1e3:.3g} ms"


class _Held:
    """A timeline as a cache key: by identity, since hashing its columns costs more than a replay."""

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def __hash__(self) -> int:
        return id(self.timeline)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.timeline is self.timeline


@lru_cache(maxsize=2)
def _facts_of(held: _Held) -> tuple[Replay, tuple[GapRow, ...]]:
    run = replay(held.timeline)
    return run, find_gaps(held.timeline, run)


def _facts(timeline: Timeline) -> tuple[Replay, tuple[GapRow, ...]]:
    return _facts_of(_Held(timeline))
