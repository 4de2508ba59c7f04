"""The denoising loop of a timeline: its idle time, its parts, its waits. What several rules ask for."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, lru_cache

from msgspec.structs import replace

from diffprof.recording import GapRow, Timeline
from diffprof.timeline import Replay, find_gaps, replay, steps_of, total_us


class Loop:
    """Times in microseconds, summed over the loop."""

    def __init__(self, timeline: Timeline, *, or_all: bool = False) -> None:
        """or_all: where no steps are known, as in most traces that others made, everything is the loop, and
        `steps` is 0."""
        self.timeline = timeline
        self.spans = steps_of(timeline)
        self.steps = len(self.spans)
        if or_all and not self.spans and timeline.host_us:
            self.spans = ((0, len(timeline.host_us)),)

    @property
    def name(self) -> str:
        """What it is, in words."""
        return "denoising loop" if self.steps else "call"

    def per_step(self, amount: float) -> str:
        """Microseconds in words: of a step where steps are known, else in all."""
        return f"{amount / self.steps:,.0f} us a step" if self.steps else f"{amount:,.0f} us in all"

    def at_most(self, saved_us: float, idle_us: float) -> float:
        """What a finding about idle time saves. Where no steps are known the call's own beginning and end, in
        which the device has no work yet, are part of it: only idle time between work counts."""
        return saved_us if self.steps else min(saved_us, idle_us)

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
        run = self.run
        starts = [run.device_start[i] for i in self.events if run.device_start[i] >= 0.0]
        ends = [run.device_end[i] for i in self.events]
        return (min(starts), max(ends)) if starts else (0.0, 0.0)

    @property
    def length_us(self) -> float:
        begin, end = self.window_us
        return end - begin

    def idle_us(self, cause: str) -> float:
        """Idle time of the device inside the loop, by cause."""
        begin, end = self.window_us
        return sum(
            gap.duration_us for gap in self._gaps if gap.cause == cause and begin <= gap.start_us < end
        )

    def inside(self, kinds: Iterable[int]) -> list[int]:
        """Events of the loop that launch one of these kinds."""
        wanted = set(kinds)
        return [event for event in self.events if self.timeline.kind[event] in wanted]

    def calls(self, kinds: Iterable[int]) -> int:
        return len(self.inside(kinds))

    def waiting_rows(self) -> frozenset[int]:
        """Sync rows that wait in the loop; -2 stands for waits without a row."""
        return frozenset(self.timeline.sync[event] for event in self.events) - {-1}

    def waits(self) -> int:
        return sum(1 for event in self.events if self.timeline.sync[event] != -1)

    def host_only(self) -> list[int]:
        """Events of the loop that are Python alone: no operation, no wait."""
        timeline = self.timeline
        return [e for e in self.events if timeline.kind[e] < 0 and timeline.sync[e] == -1]

    def events_of(self, part: str) -> frozenset[int]:
        """Events of one part of the steps."""
        spans = [s for s in self.timeline.phases if s.step is not None and s.part == part]
        return frozenset(event for span in spans for event in range(span.first, span.last))

    def part_share(self, part: str) -> float | None:
        """Share of a step that one part takes, over the steps after the first: of its own work on the host
        or the device, whichever is more, not of what it waits for. None where there is no such part."""
        timeline, later = self.timeline, self.spans[1:]
        if not later:
            return None
        chosen = [event for event in self.events_of(part) if later[0][0] <= event < later[-1][1]]
        whole = self._wall_us(range(later[0][0], later[-1][1]))
        if not chosen or whole <= 0.0:
            return None
        host = sum(timeline.host_us[event] for event in chosen)
        device = sum(timeline.device_us[event] for event in chosen)
        return max(host, device) / whole

    def _wall_us(self, events: range) -> float:
        """From the first to the last of what these events do, on host or device."""
        run = self.run
        host = run.host_end[events[-1]] - run.host_start[events[0]]
        starts = [run.device_start[event] for event in events if run.device_start[event] >= 0.0]
        ends = [run.device_end[event] for event in events]
        return max(host, max(ends) - min(starts)) if starts else host

    def saved_without_host_us(self) -> float:
        """What the call would save if issuing the loop's operations cost the host nothing."""
        host = list(self.timeline.host_us)
        for event in self.events:
            if self.timeline.kind[event] >= 0:
                host[event] = 0.0
        return max(0.0, self.run.total_us - total_us(replace(self.timeline, host_us=tuple(host))))


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
