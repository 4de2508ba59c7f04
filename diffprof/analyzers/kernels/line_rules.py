"""KRN: lines of source that launch one small operation after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from diffprof.analyzers.kernels.loop import milliseconds
from diffprof.judge.rules import rule
from diffprof.judge.steps import phase_of_events
from diffprof.judge.timeline import total_us
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import LineRow, Recording, Timeline, median
from diffprof.model.units import listed, place

CALL_SHARE = 0.01
"""Share of the call that its operations keep the CPU or the device busy for, from which a line counts."""

MANY = 256
"""Operations of a line, with none of another function between them, that are told."""

MOST_LINES = 3


@rule("KRN015", "one-by-one", needs=("timeline", "bursts"))
def one_by_one(recording: Recording) -> Iterator[Finding]:
    """A line of source launches hundreds of small operations, one after the other.

    What it does:
        Looks for lines that launch 256 operations or more in one stay in their function, copies between host
        and device apart. Reported where these keep the host or the device busy for 1 % of the call.

    Why it is slow:
        A Python loop over rows, frames or tokens launches an operation for each. An eager operation costs the
        host 10 to 50 us, however small it is, and the device has next to nothing to do meanwhile.

    Example:
        for i in range(length):                            # a mask, row by row
            mask[i, : (i // rows + 1) * rows] = 0

    Use instead:
        frame = torch.arange(length, device=device) // rows
        mask.masked_fill_(frame[None, :] <= frame[:, None], 0)   # one operation

    Fix safety:
        The same values.
    """
    timeline = recording.timeline
    assert timeline is not None
    launches = [us for us, busy in zip(timeline.host_us, timeline.device_us, strict=True) if busy > 0.0]
    if not launches:
        return
    host_us, whole = median(launches), total_us(timeline)
    rows = [
        row for row in recording.bursts or () if max(row.device_us, row.count * host_us) >= CALL_SHARE * whole
    ]
    if rows:
        yield _finding(timeline, rows, host_us)


def _finding(timeline: Timeline, rows: Sequence[LineRow], host_us: float) -> Finding:
    count = sum(row.count for row in rows)
    events = _alike_in_a_row(timeline)
    events = events if len(events) <= count else ()
    phases = {span.name if span else None for span in (phase_of_events(timeline)[n] for n in events)}
    phase = phases.pop() if len(phases) == 1 else None
    lines = [f"{place(row.site)} ({row.count:,})" for row in rows[:MOST_LINES]]
    busy = milliseconds(max(count * host_us, sum(row.device_us for row in rows)))
    return Finding(
        rule="KRN015",
        name="one-by-one",
        kind="one-by-one",
        site=rows[0].site,
        message=f"{count:,} operations come one after the other from {listed(lines)}: {busy} of the host or "
        "the device.",
        grade=timeline.grade,
        severity=Severity.MEDIUM,
        phase=phase,
        in_loop=phase == "denoise",
        count=count,
        advice="Write the loop as one operation on whole tensors, such as a comparison of two torch.arange "
        "for a mask; what depends on sizes alone can be made once and kept.",
        evidence=Evidence(events=events),
    )


def _alike_in_a_row(timeline: Timeline) -> tuple[int, ...]:
    """Events of one kernel, whatever its shape, of which MANY follow each other in a module."""
    found: list[int] = []

    def alike(event: int) -> tuple[int, str]:
        kind = timeline.kind[event]
        told = kind >= 0 and not timeline.kinds[kind].crosses_link
        return timeline.module[event], timeline.kinds[kind].name if told else ""

    for (_, name), stretch in groupby(range(len(timeline.kind)), key=alike):
        own = list(stretch)
        if name and len(own) >= MANY:
            found += own
    return tuple(found)
