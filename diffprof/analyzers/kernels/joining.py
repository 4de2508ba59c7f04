"""Waits seen twice: by the dispatcher, which knows the line, and by the profiler, which knows the time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from diffprof.model.recording import GapRow, SyncRow, Timeline

if TYPE_CHECKING:  # no simulated scan reads a trace
    from diffprof.chrome_trace.sections import Sections
    from diffprof.chrome_trace.waits import WaitEvent

NOT_BLOCKING = -1

Place = tuple[str, str, int | None, str | None]
"""(operator, phase, step, part): what both instruments tell of a wait."""


@dataclass(frozen=True)
class SeenWait:
    """One wait that passed the dispatcher. row: in the recording's syncs."""

    row: int
    op: str
    phase: str
    step: int | None = None
    part: str | None = None

    @property
    def place(self) -> Place:
        return self.op, self.phase, self.step, self.part


@dataclass(frozen=True)
class Joined:
    """Sections of the recording whose sync rows are one list."""

    syncs: tuple[SyncRow, ...]
    timeline: Timeline | None
    gaps: tuple[GapRow, ...] | None


def join_waits(rows: Sequence[SyncRow], seen: Sequence[SeenWait], found: Sections) -> Joined:
    """One list of sync rows: those of the dispatcher with the time that the profiled call spent in them, then
    those that only the profiler saw.

    rows, seen: of the watched call, waits in host order. found: of the profiled call. In each place (same
    operator, phase, step and part) waits are paired in order, where both calls have equally many; otherwise
    the profiled ones keep their effect on the timeline and get no row.
    """
    from diffprof.chrome_trace.waits import NO_ROW

    pairs = _pairs(seen, found.waits)
    known = {wait.op for wait in seen}
    own: dict[int, int] = {}
    of_event: list[int] = []
    merged = list(rows)
    for number, event in enumerate(found.waits):
        row = pairs.get(number)
        if row is None:
            row = NO_ROW
            if event.row >= 0 and not known & set(event.ops) and found.syncs is not None:
                # No operator of PyTorch: the allocator, a library, a plain synchronize.
                if event.row not in own:
                    own[event.row] = len(merged)
                    merged.append(found.syncs[event.row])
                row = own[event.row]
        of_event.append(row)
    _add_times(merged, rows, of_event, found.waits)
    return Joined(
        syncs=tuple(merged),
        timeline=_timeline(found.timeline, of_event),
        gaps=_gaps(found.gaps, of_event, found.waits),
    )


def _pairs(seen: Sequence[SeenWait], events: Sequence[WaitEvent]) -> dict[int, int]:
    """Number of a profiled wait -> row of the one that was seen."""
    expected: dict[Place, list[int]] = defaultdict(list)
    for wait in seen:
        expected[wait.place].append(wait.row)
    met: dict[Place, list[int]] = defaultdict(list)
    for number, event in enumerate(events):
        phase = event.phase
        if phase is None:
            continue
        places = [(op, phase.name, phase.step, phase.part) for op in event.ops]
        place = next((place for place in places if place in expected), None)
        if place is not None:
            met[place].append(number)
    found: dict[int, int] = {}
    for place, numbers in met.items():
        if len(numbers) == len(expected[place]):
            found.update(zip(numbers, expected[place], strict=True))
    return found


def _add_times(
    merged: list[SyncRow], rows: Sequence[SyncRow], of_event: Sequence[int], events: Sequence[WaitEvent]
) -> None:
    spent: dict[int, float] = defaultdict(float)
    for row, event in zip(of_event, events, strict=True):
        if 0 <= row < len(rows):
            spent[row] += event.waited_us
    for row, us in spent.items():
        before = merged[row]
        merged[row] = replace(before, blocked_us=round(us, 3), witnesses=(*before.witnesses, "trace"))


def _timeline(timeline: Timeline | None, of_event: Sequence[int]) -> Timeline | None:
    if timeline is None:
        return None
    again = iter(of_event)
    sync = tuple(NOT_BLOCKING if row == NOT_BLOCKING else next(again) for row in timeline.sync)
    return replace(timeline, sync=sync)


def _gaps(
    gaps: tuple[GapRow, ...] | None, of_event: Sequence[int], events: Sequence[WaitEvent]
) -> tuple[GapRow, ...] | None:
    """Gaps with the row that the wait behind them has now: of its old row the one that covers most of
    the gap."""
    if gaps is None:
        return None
    by_row: dict[int, list[tuple[int, WaitEvent]]] = defaultdict(list)
    for now, event in zip(of_event, events, strict=True):
        by_row[event.row].append((now, event))
    found = []
    for gap in gaps:
        row, most = None, 0.0
        for now, event in by_row[gap.sync] if gap.sync is not None else ():
            end = min(event.end_us, gap.start_us + gap.duration_us)
            covered = end - max(event.start_us, gap.start_us)
            if covered > most:
                row, most = now, covered
        found.append(replace(gap, sync=row if row is not None and row >= 0 else None))
    return tuple(found)
