"""Host and device over time, cut down to what a picture of a given width can show.

A track is a row of bands. Each column of the picture shows what took most of its time; columns alike are one
band, so that a call of a hundred thousand kernels becomes some hundred shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby

from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import Replay
from diffprof.model.recording import PhaseSpan, SyncRow, Timeline

WORKS, WAITS, FULL, IDLE = "works", "waits", "queue full", "idle"
"""What a track does. queue full: the CPU waits for room in the launch queue; that costs nothing."""


@dataclass(frozen=True)
class Band:
    """What a track does for a while. Times: microseconds from the call's start; share: of the band, 0..1."""

    start_us: float
    end_us: float
    what: str
    share: float = 1.0


@dataclass(frozen=True)
class WaitMark:
    """Waits of the CPU that begin in one column. row: index into the recording's syncs of the longest, or
    None where it has none."""

    at_us: float
    until_us: float
    row: int | None
    count: int = 1


@dataclass(frozen=True)
class TimelineBands:
    """A stretch of the call. device: families of kernels, or idle; host: works, waits
    or queue full."""

    start_us: float
    end_us: float
    phases: tuple[Band, ...]
    host: tuple[Band, ...]
    device: tuple[Band, ...]
    marks: tuple[WaitMark, ...]


def whole_call(timeline: Timeline, run: Replay, columns: int) -> TimelineBands:
    """All of it."""
    return _bands(timeline, run, 0.0, run.total_us, columns)


def one_step(timeline: Timeline, run: Replay, columns: int) -> tuple[int, TimelineBands] | None:
    """(number, tracks) of a denoising step in the steady state: the second, or the only one; None without. It
    lasts from the device's first work of the step to its first of the next: the CPU is often far ahead."""
    steps = steps_of(timeline)
    if not steps:
        return None
    number = 1 if len(steps) > 2 else len(steps) - 1
    first, last = steps[number]
    if last <= first:
        return None
    window = _on_device(run, first, last)
    if window is None:
        return number, _bands(timeline, run, run.host_start[first], run.host_end[last - 1], columns)
    start, end = window
    following = _on_device(run, *steps[number + 1]) if number + 1 < len(steps) else None
    end = end if following is None else following[0]
    return number, _bands(timeline, run, start, end, columns, when=_on_device)


Window = tuple[float, float]
"""From when until when, us."""


def _on_device(run: Replay, first: int, last: int) -> Window | None:
    """When the device works on these events; None where they bring it no work."""
    worked = [i for i in range(first, min(last, len(run.host_end))) if run.device_start[i] >= 0.0]
    if not worked:
        return None
    return min(run.device_start[i] for i in worked), max(run.device_end[i] for i in worked)


def _on_host(run: Replay, first: int, last: int) -> Window | None:
    """When the CPU issues these events."""
    last = min(last, len(run.host_end))
    return (run.host_start[first], run.host_end[last - 1]) if last > first else None


def _bands(
    timeline: Timeline,
    run: Replay,
    start: float,
    end: float,
    columns: int,
    when: Callable[[Replay, int, int], Window | None] = _on_host,
) -> TimelineBands:
    end = max(end, start + 0.001)
    width = (end - start) / columns
    grid = _Grid(start, width, columns)
    families = [kind.family for kind in timeline.kinds]
    events = range(len(timeline.host_us))
    device = grid.bands(
        (
            (run.device_start[i], run.device_end[i], families[timeline.kind[i]])
            for i in events
            if run.device_start[i] >= 0.0 and timeline.kind[i] >= 0
        ),
        rest=IDLE,
    )
    waiting = [i for i in events if run.wait_start[i] >= 0.0]
    host = grid.bands(
        chain(
            ((run.wait_start[i], run.host_end[i], WAITS) for i in waiting),
            ((begin, until, FULL) for begin, until in _throttled(timeline, run)),
        ),
        rest=WORKS,
        until=run.host_end_us,
    )
    return TimelineBands(
        start_us=start,
        end_us=end,
        phases=tuple(_phases(timeline.phases, partial(when, run), start, end)),
        host=host,
        device=device,
        marks=tuple(_marks(timeline, run, waiting, grid, start, end)),
    )


def _throttled(timeline: Timeline, run: Replay) -> Iterator[tuple[float, float]]:
    """When the CPU had done its part of a launch and the queue had no room."""
    for i, spent in enumerate(timeline.host_us):
        done = run.host_start[i] + spent
        until = run.wait_start[i] if run.wait_start[i] >= 0.0 else run.host_end[i]
        # 1 us: the rounding of sums is far below it, and no picture shows it.
        if until - done > 1.0:
            yield done, until


class _Grid:
    """The picture's columns."""

    def __init__(self, start: float, width: float, columns: int) -> None:
        self.start, self.width, self.columns = start, width, columns

    def column(self, at: float) -> int:
        return min(self.columns - 1, max(0, int((at - self.start) / self.width)))

    def edge(self, column: int) -> float:
        return self.start + column * self.width

    def bands(
        self, spans: Iterable[tuple[float, float, str]], *, rest: str, until: float | None = None
    ) -> tuple[Band, ...]:
        """The spans as bands; what they leave free is `rest`, up to `until`."""
        spent: list[dict[str, float]] = [{} for _ in range(self.columns)]
        last = self.edge(self.columns)
        for begin, end, what in spans:
            begin, end = max(begin, self.start), min(end, last)
            if end <= begin:
                continue
            for column in range(self.column(begin), self.column(end) + 1):
                inside = min(end, self.edge(column + 1)) - max(begin, self.edge(column))
                if inside > 0.0:
                    cell = spent[column]
                    cell[what] = cell.get(what, 0.0) + inside
        shown = []
        for column, cell in enumerate(spent):
            free = self.width - sum(cell.values())
            if until is not None and self.edge(column) >= until:
                break
            what, most = max(cell.items(), key=lambda item: item[1], default=(rest, free))
            if free > most:
                what, most = rest, free
            shown.append((column, what, min(1.0, most / self.width)))
        bands = []
        for what, group in groupby(shown, key=lambda each: each[1]):
            cells = list(group)
            share = sum(cell[2] for cell in cells) / len(cells)
            bands.append(Band(self.edge(cells[0][0]), self.edge(cells[-1][0] + 1), what, share))
        return tuple(bands)


def _phases(
    phases: Sequence[PhaseSpan], when: Callable[[int, int], Window | None], start: float, end: float
) -> list[Band]:
    """Phases of the call, and each denoising step as one. when: of the events from one to another."""
    spans: dict[tuple[str, int | None], Window] = {}
    for phase in phases:
        window = when(phase.first, phase.last)
        if window is None:
            continue
        known = spans.setdefault((phase.name, phase.step), window)
        spans[phase.name, phase.step] = min(window[0], known[0]), max(window[1], known[1])
    return [
        Band(max(begin, start), min(until, end), name if step is None else f"{name} {step + 1}")
        for (name, step), (begin, until) in spans.items()
        if until > start and begin < end
    ]


def _marks(
    timeline: Timeline, run: Replay, waiting: Sequence[int], grid: _Grid, start: float, end: float
) -> list[WaitMark]:
    inside = [i for i in waiting if start <= run.wait_start[i] < end]
    marks = []
    for _, group in groupby(inside, key=lambda i: grid.column(run.wait_start[i])):
        events = list(group)
        longest = max(events, key=lambda i: run.host_end[i] - run.wait_start[i])
        row = timeline.sync[longest]
        marks.append(
            WaitMark(
                run.wait_start[events[0]],
                run.host_end[events[-1]],
                row if row >= 0 else None,
                len(events),
            )
        )
    return marks


def said(mark: WaitMark, syncs: Sequence[SyncRow]) -> str:
    """A mark in words: where, why, how long."""
    where = "a wait without a known place"
    if mark.row is not None and mark.row < len(syncs):
        site = syncs[mark.row].site
        where = f"{site.file}:{site.line}" if site.line else site.file
        where += f" ({syncs[mark.row].kind})"
    more = f", and {mark.count - 1} more" if mark.count > 1 else ""
    return f"{where}{more}: {(mark.until_us - mark.at_us) / 1e3:.3g} ms"


def ticks(span_us: float, most: int = 6) -> list[float]:
    """Round places on an axis from 0 to `span_us`, in microseconds: multiples of 1, 2 or 5 of a power of ten,
    `most` at most; none so near the end that its label would be cut."""
    if span_us <= 0:
        return [0.0]
    rough = span_us / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough)
    return [number * step for number in range(int(0.97 * span_us / step) + 1)]
