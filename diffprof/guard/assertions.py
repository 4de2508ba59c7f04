"""What a test asserts on a report. Each passes only on evidence: where nothing was recorded, it says what to
scan, as a UsageError, and where it does not hold, what is wrong, where, and what to write instead."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from diffprof.judge.comparing import Figure, compare
from diffprof.judge.gate import IN_LOOP, Gate, parse_gate
from diffprof.model import units
from diffprof.model.errors import UsageError
from diffprof.model.finding import Finding
from diffprof.model.methods import method
from diffprof.model.recording import CaptureRow, Recording
from diffprof.model.report import Report

__tracebackhide__ = True

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def assert_no_waits(report: Report, *, in_loop: bool = True) -> None:
    """Nothing makes the CPU wait for the GPU, in the denoising loop or, with in_loop=False, in the call."""
    where = "in the denoising loop" if in_loop else "in the call"
    assert_none(report, parse_gate(IN_LOOP if in_loop else "SYN"), "wait", where)


def assert_none(report: Report, gate: Gate, noun: str = "finding", where: str = "") -> None:
    """Nothing that the gate names was found, and all of it was looked for."""
    whole(report)
    target = report.recording.target
    if gate.in_loop and not target.steps and target.kind != "trace":
        raise UsageError(
            f"No denoising loop was seen in the call of {target.spec}, so nothing in it can be asserted.",
            'Assert on the whole call: assert_no_waits(in_loop=False), or fail_on="SYN".',
        )
    if missing := gate.unjudged(report):
        why = "; ".join(dict.fromkeys(each.why for each in missing))
        raise UsageError(f"{', '.join(each.rule for each in missing)} can't be asserted: {why}.", _SCAN)
    if left := gate.not_reached(report):
        raise UsageError(f"{left[0].what} was not scanned: {left[0].why}.", "Nothing can be asserted on it.")
    if hits := gate.hits(report):
        raise AssertionError(
            method("failure")(report, hits, f"{units.plural(len(hits), noun)} {where}".strip())
        )


def assert_fullgraph(report: Report, components: Sequence[str]) -> None:
    """These components, or all that were captured, are one graph each, as `fullgraph=True` asks for."""
    rows = _captured(report, components)
    bad = [row for row in rows if not row.fullgraph_ready]
    if not bad:
        return
    names = {row.component for row in bad}
    lines = {
        (row.site.file, row.site.line)
        for row in report.recording.graph_breaks or ()
        if row.component in names
    }
    found = [f for f in (*report.findings, *report.allowed) if _at(f, lines) and f.rule.startswith("GRB")]
    what = [f"{row.component}: {_why_not_whole(row)}" for row in bad]
    raise AssertionError(method("failure")(report, found, f"Not one graph: {'; '.join(what)}"))


def assert_no_recompiles(report: Report, vary: Mapping[str, Iterable[object]] | None = None) -> None:
    """Nothing is compiled again within a call, in the next one, or in one with other arguments.

    vary: the arguments that have to have been tried, name -> values.
    """
    rows = _captured(report, ())
    untold = [row.component for row in rows if row.tried is None or row.failure]
    if report.recording.recompiles is None or untold:
        raise UsageError(
            f"{', '.join(untold) or 'Nothing'} was not called again after it was captured.", _GRAPHS
        )
    for name, values in (vary or {}).items():
        _need_tried(report, rows, name, values)
    if again := report.recording.recompiles:
        lines = {(row.site.file, row.site.line) for row in again}
        found = [
            f for f in (*report.findings, *report.allowed) if f.kind.startswith("recompile") and _at(f, lines)
        ]
        what = [f"{row.component} {row.count} times for {row.variation} ({row.guard})" for row in again]
        raise AssertionError(
            method("failure")(report, found, f"Compiled again: {'; '.join(dict.fromkeys(what))}")
        )


def assert_max_memory(report: Report, most: str | int) -> None:
    """The peak of a call's memory on the device, of each pipeline. most: bytes, or such as "8GiB"."""
    for each, over in over_memory(report, most):
        found = [f for f in each.findings if f.kind.startswith("memory")]
        raise AssertionError(method("failure")(each, found, over))


def over_memory(report: Report, most: str | int) -> Iterator[tuple[Report, str]]:
    """Each pipeline whose peak is over `most`, and how far.

    Raises UsageError where a scan did not come to its end or no memory was recorded.
    """
    whole(report)
    limit = parse_size(most)
    for each in report.alone:
        if over := _over(each.recording, limit):
            yield each, over


def _over(recording: Recording, limit: int) -> str:
    memory = recording.memory
    if memory is None or memory.peak_bytes is None:
        raise UsageError(
            f"The memory of {recording.target.spec} was not recorded.",
            'Scan on a simulated GPU or on cuda, with the analyzer "kernels" (a default one).',
        )
    if memory.peak_bytes <= limit:
        return ""
    parts = [f"{phase} {units.size(peak)}" for phase, peak in memory.by_phase.items() if peak > limit]
    over = f"; over it in {', '.join(parts)}" if parts else ""
    return f"{units.size(memory.peak_bytes)} at the peak ({memory.grade}), {units.size(limit)} allowed{over}"


def assert_time_ratio(report: Report, baseline: Report, at_most: float) -> None:
    """A call takes no more than this share of the time of the baseline's, of each pipeline."""
    for each in (report, baseline):
        whole(each)
    for found in compare(baseline, report).each:
        _assert_ratio(report, found.figures[0], at_most)


def _assert_ratio(report: Report, time: Figure, at_most: float) -> None:
    if time.ratio is None or time.note:
        why = time.note or "the time of one call was not recorded in both"
        raise UsageError(
            f"The times can't be compared: {why}.", "Scan both on the same device, in the same way."
        )
    if time.ratio > at_most:
        head = (
            f"{units.duration(time.after)} a call, {time.ratio:.3f} of the baseline's "
            f"{units.duration(time.before)} ({time.grade}); at most {at_most:g} is asserted"
        )
        raise AssertionError(method("failure")(report, report.findings[:3], head))


def parse_size(text: str | int) -> int:
    """Bytes of "8GiB", "800 MiB", "8GB" or a number. Raises UsageError for anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(text))
    if found is None or found[2].lower() not in _UNITS:
        raise UsageError(f"{text!r} is no size.", 'Write a number of bytes, or such as "8GiB" or "800MiB".')
    return round(float(found[1]) * _UNITS[found[2].lower()])


_SCAN = 'Scan with what looks for it, such as scan(..., analyzers="all").'
_GRAPHS = 'Scan with scan(..., analyzers="graph-breaks").'


def whole(report: Report) -> None:
    """Raises UsageError for a report on a call that was not seen to its end."""
    for recording in (each.recording for each in report.each if each.recording.partial):
        why = recording.failure or "it ended early"
        raise UsageError(f"The report is partial: {why}", "Nothing can be asserted on it; scan again.")


def _captured(report: Report, components: Sequence[str]) -> Sequence[CaptureRow]:
    whole(report)
    rows = report.recording.captures
    if not rows:
        raise UsageError(f"No component of {report.recording.target.spec} was captured.", _GRAPHS)
    known = {row.component: row for row in rows}
    for name in components:
        if name not in known:
            raise UsageError(f"{name!r} was not captured.", f"Captured were: {', '.join(known)}.")
    return [known[name] for name in components] or rows


def _why_not_whole(row: CaptureRow) -> str:
    if row.failure:
        return f"it could not be captured ({row.failure})"
    return f"{units.plural(row.graphs, 'graph')}, {units.plural(row.breaks, 'break')}"


def _need_tried(report: Report, rows: Sequence[CaptureRow], name: str, values: Iterable[object]) -> None:
    tried = {each for row in rows for each in row.tried or ()}
    own = report.recording.target.call.get(name)
    for value in values:
        if value != own and f"{name}={value}" not in tried:
            raise UsageError(
                f"{name}={value!r} was not tried.",
                f"Scan with it: scan(..., vary={{{name!r}: {list(values)!r}}}).",
            )


def _at(finding: Finding, lines: set[tuple[str, int]]) -> bool:
    return finding.site is not None and (finding.site.file, finding.site.line) in lines
