"""The parts of a report that are tables, in a neutral form that every view draws its own way.

Grows with the recording: a new section is one function in SECTIONS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

from diffprof.recording import Recording
from diffprof.report import Report
from diffprof.rules import Unchecked
from diffprof.views.words import NOT_MEASURED, number, plural, seconds, size

MOST_ROWS = 12


@dataclass(frozen=True)
class Table:
    """Cells are text; the view cleans and escapes them. note: how to read it, or what is left out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def _call(recording: Recording) -> Table | None:
    """Time and memory of one call."""
    rows: list[tuple[str, ...]] = []
    if timing := recording.timing:
        spread = "" if timing.spread is None else f" ± {seconds(timing.spread)}"
        passes = f", {plural(len(timing.seconds), 'pass', 'passes')}" if timing.seconds else ""
        rows.append(
            (f"time of one call, {timing.mode}{passes}", f"{seconds(timing.median)}{spread}", timing.grade)
        )
        busy = NOT_MEASURED if timing.device_busy is None else f"{number(timing.device_busy * 100)} %"
        rows.append(("device busy", busy, timing.grade))
    if memory := recording.memory:
        of = "" if memory.capacity_bytes is None else f" of {size(memory.capacity_bytes)}"
        rows.append(("memory, peak", size(memory.peak_bytes) + of, memory.grade))
        rows.append(("memory, weights", size(memory.weights_bytes), memory.grade))
    return Table("One call", ("figure", "value", "grade"), tuple(rows)) if rows else None


def _kernels(recording: Recording) -> Table | None:
    """Where device time goes, summed over modules and phases."""
    if not recording.kernels:
        return None
    totals: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for row in recording.kernels:
        entry = totals[row.name, row.family]
        entry[0] += row.count
        entry[1] += row.device_us
    everything = sum(entry[1] for entry in totals.values())
    ranked = sorted(totals.items(), key=lambda item: -item[1][1])
    rows = tuple(
        (
            number(us / 1e3),
            f"{us / everything:.1%}" if everything else "0%",
            f"{count:,.0f}",
            family,
            name,
        )
        for (name, family), (count, us) in ranked[:MOST_ROWS]
    )
    grade = recording.timeline.grade if recording.timeline else recording.device.grade
    left = len(ranked) - len(rows)
    note = f"{number(everything / 1e3)} ms of device time per call ({grade})"
    if left:
        note += f"; {plural(left, 'more kernel')} not shown"
    return Table("Device time", ("ms", "share", "calls", "family", "kernel"), rows, note)


def _gaps(recording: Recording) -> Table | None:
    """Device idle time by cause."""
    if not recording.gaps:
        return None
    causes: dict[str, list[float]] = defaultdict(list)
    for gap in recording.gaps:
        causes[gap.cause].append(gap.duration_us)
    rows = tuple(
        (number(sum(found) / 1e3), f"{len(found):,}", number(max(found)), cause)
        for cause, found in sorted(causes.items(), key=lambda item: -sum(item[1]))
    )
    grade = recording.timeline.grade if recording.timeline else recording.device.grade
    return Table("Device idle", ("ms", "gaps", "longest us", "cause"), rows, f"per call ({grade})")


def _linears(recording: Recording) -> Table | None:
    """What the quantization choice rests on: the shapes with the largest share."""
    choice = recording.quantization
    if not recording.linears or choice is None:
        return None
    rows = tuple(
        (
            f"{row.m:,} x {row.in_features} x {row.out_features}",
            f"{row.count:,}",
            "" if row.share is None else f"{row.share:.1%}",
            "not timed" if row.worth_it is None else "yes" if row.worth_it else "no",
            row.why,
        )
        for row in recording.linears[:MOST_ROWS]
    )
    part = f" of {number(choice.call_ms)} ms" if choice.call_ms else ""
    note = (
        f"The choice saves {number(choice.saves_ms)} ms{part} per call and {size(choice.saves_bytes)} of "
        f"weights ({choice.mode}, {choice.grade}); `diffprof quantize-table` prints the code"
    )
    left = len(recording.linears) - len(rows)
    if left:
        note += f"; {plural(left, 'more shape')} not shown"
    return Table("Linears", ("rows x in x out", "calls", "share", "quantize", "why"), rows, note)


def _captures(recording: Recording) -> Table | None:
    """What torch.compile makes of each component."""
    if not recording.captures:
        return None
    rows: tuple[tuple[str, ...], ...] = tuple(
        (
            row.component,
            "not captured" if row.failure else "yes" if row.fullgraph_ready else "no",
            NOT_MEASURED if row.failure else f"{row.graphs:,}",
            NOT_MEASURED if row.failure else f"{row.breaks:,}",
            NOT_MEASURED if row.failure else f"{row.ops:,}",
            f"{row.calls:,}",
            row.failure or "",
        )
        for row in recording.captures
    )
    columns: tuple[str, ...] = (
        "component",
        "fullgraph-ready",
        "graphs",
        "breaks",
        "operations",
        "calls",
        "why not",
    )
    if not any(row.failure for row in recording.captures):
        columns, rows = columns[:-1], tuple(row[:-1] for row in rows)
    return Table("Compiled parts", columns, rows, "as Dynamo captures them, with the inputs of this call")


def _graph_breaks(recording: Recording) -> Table | None:
    """Where graphs end, those passed most often first."""
    if not recording.graph_breaks:
        return None
    ranked = sorted(recording.graph_breaks, key=lambda row: -(row.count or 0))
    rows = tuple(
        (
            NOT_MEASURED if row.per_step is None else number(row.per_step),
            row.component,
            f"{row.site.file}:{row.site.line}",
            row.cause,
            row.code or "",
        )
        for row in ranked[:MOST_ROWS]
    )
    left = len(ranked) - len(rows)
    note = f"{plural(left, 'more break')} not shown" if left else ""
    return Table("Graph breaks", ("per step", "component", "where", "cause", "code"), rows, note)


def _recompiles(recording: Recording) -> Table | None:
    """What made Dynamo compile again, and what did not."""
    found = {(row.component, row.variation) for row in recording.recompiles or ()}
    rows = [
        (
            f"{row.count:,}",
            row.component,
            row.variation,
            "" if not row.tried else ", ".join(row.stopped_by) or "none of those tried",
            row.guard,
        )
        for row in recording.recompiles or ()
    ]
    quiet: dict[str, list[str]] = defaultdict(list)
    for row in recording.captures or ():
        for change in row.tried or ():
            if (row.component, change) not in found:
                quiet[change].append(row.component)
    rows += [("0", ", ".join(names), change, "", "") for change, names in quiet.items()]
    if not rows:
        return None
    left = len(rows) - MOST_ROWS
    note = "compiled once, then called again as it was and in each variation"
    if left > 0:
        note += f"; {plural(left, 'more row')} not shown"
    columns = ("times", "component", "what changed", "stopped by", "guard that failed")
    return Table("Recompiles", columns, tuple(rows[:MOST_ROWS]), note)


SECTIONS: tuple[Callable[[Recording], Table | None], ...] = (
    _call,
    _kernels,
    _gaps,
    _captures,
    _graph_breaks,
    _recompiles,
    _linears,
)


def tables(report: Report) -> Iterator[Table]:
    """The tables for which the recording has evidence."""
    for section in SECTIONS:
        table = section(report.recording)
        if table:
            yield table


def _without_evidence(rules: list[Unchecked]) -> tuple[str, str]:
    """Rules that lack the same evidence, in one row."""
    first = rules[0]
    if len(rules) == 1:
        return f"{first.rule} {first.name}", first.why
    return f"{', '.join(each.rule for each in rules)}", first.why


_UNSEEN = {
    "gap": "not seen",
    "branch": "took another branch than on CUDA",
    "value": "followed an invented value",
}


def not_checked(report: Report) -> tuple[tuple[str, str], ...]:
    """(what, why) of everything that was not judged: rules without evidence, and what probes passed over."""
    rows = [_without_evidence(list(group)) for _, group in groupby(report.unchecked, lambda u: u.why)]
    for each in report.recording.unseen:
        where = f" ({each.site.file}:{each.site.line})" if each.site else ""
        how = _UNSEEN.get(each.kind)
        rows.append((each.what + where, f"{how}: {each.why}" if how else each.why))
    return tuple(rows)
