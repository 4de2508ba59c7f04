"""The parts of a report that are tables, in a neutral form that every view draws its own way.

Grows with the recording: a new section is one function in SECTIONS.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

from diffprof.judge.block_times import block_times
from diffprof.judge.registry import analyzers
from diffprof.model.analyzer import Listing, cell
from diffprof.model.finding import Unchecked
from diffprof.model.recording import RecompileRow, Recording
from diffprof.model.report import Report
from diffprof.model.units import NOT_MEASURED, milliseconds, number, place, plural, size
from diffprof.views.attention import attention_table
from diffprof.views.memory import memory_table
from diffprof.views.table import MOST_ROWS, Table
from diffprof.views.times import TIMES


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


def _attention(recording: Recording) -> Table | None:
    """Every distinct attention of the call under the kernels of the device."""
    if not recording.attention:
        return None
    return attention_table(recording.attention[:MOST_ROWS])


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
            _one_compile(row),
            row.guard,
        )
        for row in recording.recompiles or ()
    ]
    quiet: dict[str, list[str]] = defaultdict(list)
    for row in recording.captures or ():
        for change in row.tried or ():
            if (row.component, change) not in found:
                quiet[change].append(row.component)
    rows += [("0", ", ".join(names), change, "", "", "") for change, names in quiet.items()]
    if not rows:
        return None
    left = len(rows) - MOST_ROWS
    note = (
        "compiled once, then called again as it was and in each variation; one compile, once in a process, "
        "measured here: Dynamo's capture, or where it says so with the backend"
    )
    if left > 0:
        note += f"; {plural(left, 'more row')} not shown"
    columns = ("times", "component", "what changed", "stopped by", "one compile", "guard that failed")
    return Table("Recompiles", columns, tuple(rows[:MOST_ROWS]), note)


def _one_compile(row: RecompileRow) -> str:
    cost = row.cost
    if cost is not None and cost.compile_ms is not None:
        return f"{milliseconds(cost.compile_ms)} with backend"
    return NOT_MEASURED if cost is None or cost.capture_ms is None else milliseconds(cost.capture_ms)


def _blocks(recording: Recording) -> Table | None:
    """Of a pipeline that is made of blocks, what each takes of the call."""
    found = recording.blocks or (block_times(recording.timeline) if recording.timeline is not None else ())
    if not found:
        return None
    rows = tuple(
        (
            each.name,
            milliseconds(each.elapsed_ms),
            NOT_MEASURED if each.device_ms is None else milliseconds(each.device_ms),
            NOT_MEASURED if each.waits is None else f"{each.waits:,}",
        )
        for each in found[:MOST_ROWS]
    )
    left = len(found) - len(rows)
    note = "the host's time, waits included, without blocks in the block"
    return Table(
        "Blocks of the pipeline",
        ("block", "time", "device time", "waits"),
        rows,
        f"{note}; {plural(left, 'more block')} not shown" if left else note,
    )


SECTIONS: tuple[Callable[[Recording], Table | None], ...] = (
    *TIMES,
    _blocks,
    memory_table,
    _captures,
    _graph_breaks,
    _recompiles,
    _linears,
    _attention,
)


def _allowed(report: Report) -> Table | None:
    """What was found and is meant to be there."""
    if not report.allowed:
        return None
    rows = tuple((f"{each.rule} {each.name}", each.where, each.allowed) for each in report.allowed)
    left = len(rows) - MOST_ROWS
    note = f"{plural(left, 'more')} not shown" if left > 0 else ""
    return Table("Allowed on purpose", ("what", "where", "why"), rows[:MOST_ROWS], note)


def tables(report: Report) -> Iterator[Table]:
    """The tables for which the recording has evidence, and what is allowed."""
    if (allowed := _allowed(report)) is not None:
        yield allowed
    for section in SECTIONS:
        table = section(report.recording)
        if table:
            yield table
    for listing in listings():
        if rows := report.recording.section(listing.section):
            yield listed(listing, rows)


def listings() -> Iterator[Listing]:
    """Of the analyzers that say how their section is listed."""
    return (each.listing for each in analyzers() if each.listing is not None)


def listed(listing: Listing, rows: Sequence[object]) -> Table:
    """A section as its analyzer lists it."""
    cells = tuple(tuple(cell(row, column.field) for column in listing.columns) for row in rows)
    left = len(cells) - MOST_ROWS
    more = f"{plural(left, 'more row')} not shown" if left > 0 else ""
    note = "; ".join(part for part in (listing.note, more) if part)
    return Table(listing.title, tuple(column.title for column in listing.columns), cells[:MOST_ROWS], note)


def _without_evidence(rules: list[Unchecked]) -> tuple[str, str]:
    """Rules that lack the same evidence, in one row."""
    first = rules[0]
    if len(rules) == 1:
        return f"{first.rule} {first.name}", first.why
    return f"{', '.join(each.rule for each in rules)}", first.why


_UNSEEN = {
    "gap": "not seen",
    "untimed": "not timed",
    "value": "followed an invented value",
    "not-reached": "not scanned",
    "left-out": "left out",
}


def not_checked(report: Report) -> tuple[tuple[str, str], ...]:
    """(what, why) of everything that was not judged: rules without evidence, and what probes passed over."""
    rows = [_without_evidence(list(group)) for _, group in groupby(report.unchecked, lambda u: u.why)]
    for each in report.recording.unseen:
        line = place(each.site) if each.site else ""
        where = f" ({line})" if line and line not in each.what else ""
        how = _UNSEEN.get(each.kind)
        rows.append((each.what + where, f"{how}: {each.why}" if how else each.why))
    return tuple(rows)
