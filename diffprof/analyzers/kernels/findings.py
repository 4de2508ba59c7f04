"""How a finding about the denoising loop is made: the fields that say that it is one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from diffprof.analyzers.kernels.loop import LoopTimes
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import Recording, median, steady
from diffprof.model.units import listed, place

MOST_LINES = 3
MOST_OF_IT = 0.5
"""Lines that a finding names at most, and the share of the whole that it names lines for."""


def loop_finding(
    code: str,
    name: str,
    loop: LoopTimes,
    message: str,
    advice: str,
    *,
    count: int | None = None,
    by_step: Sequence[int] = (),
    severity: Severity = Severity.HIGH,
    outside: Severity | None = None,
    **more: Any,
) -> Finding:
    """A finding of the loop, or of the whole where no steps are known.

    count: in the whole loop; by default once a step. by_step: in each step, where that is known. outside: the
    severity where no steps are known, if it is another. more: further fields.
    """
    times = max(1, loop.steps) if count is None else count
    return Finding(
        rule=code,
        name=name,
        kind=name,
        message=message,
        grade=loop.timeline.grade,
        severity=severity if loop.steps or outside is None else outside,
        phase="denoise" if loop.steps else None,
        in_loop=bool(loop.steps),
        count=times,
        **often(by_step or [1] * loop.steps),
        advice=advice,
        **more,
    )


def often(by_step: Sequence[int]) -> dict[str, Any]:
    """`per_step` and `first_step_only` of a finding, by how often it is found in each step."""
    return {
        "per_step": median(steady(by_step)) if by_step else 0.0,
        "first_step_only": len(by_step) > 1 and any(by_step) and not any(by_step[1:]),
    }


def most_of(spent: Mapping[str, float], of: str, each: str = "{share:.0%}") -> str:
    """The lines that most of it comes from: `, most of it at a.py:3 (60%)`; where those that are named are
    less than half of it, `, above all at` them; empty where none is known.

    spent: by line. of: what it is and where, `it at`. each: what is said of one, of its `share` or its
    `value`.
    """
    total = sum(spent.values())
    told, named = [], 0.0
    for line, value in sorted(spent.items(), key=lambda item: -item[1])[:MOST_LINES]:
        if named >= MOST_OF_IT * total:
            break
        named += value
        told.append(f"{line} ({each.format(share=value / total, value=value)})")
    if not told:
        return ""
    most = f"most of {of}" if named >= MOST_OF_IT * total else f"above all {of.rpartition(' ')[2]}"
    return f", {most} {listed(told)}"


def of_offloading(recording: Recording) -> frozenset[int]:
    """Rows of waits that are offloading's: SYN010 and SET009 tell of them and of their copies."""
    return frozenset(n for n, row in enumerate(recording.syncs or ()) if row.offload)


def waiting_lines(recording: Recording, events: Iterable[int], of: str = "them") -> str:
    """`, most of them at a.py:3 (12)`: the lines of these events' waits, by how often they come; empty where
    no line is known. of: what they are called."""
    timeline, rows = recording.timeline, recording.syncs or ()
    assert timeline is not None
    found = Counter(timeline.sync[event] for event in events)
    lines = {n: times for n, times in found.items() if 0 <= n < len(rows)}
    spent: Counter[str] = Counter()
    for row, times in lines.items():
        spent[place(rows[row].site)] += times
    return most_of(spent, f"{of} at", "{value:,}")
