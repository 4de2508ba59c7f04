"""What the scans before and after a fix tell of it. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.judge.acceptance import Seen
from diffprof.judge.comparing import match
from diffprof.model.finding import Finding
from diffprof.model.recording import Recording
from diffprof.model.report import Report
from diffprof.model.units import plural


def analyzers_of(rules: Sequence[str]) -> tuple[str, ...]:
    """The analyzers behind these rules, but for the one that times linears: it looks before they change."""
    from diffprof.judge.rules import find_rule

    names = dict.fromkeys(find_rule(code).analyzer for code in rules)
    names.pop("quantization", None)
    return tuple(names)


def seen_between(before: Report, after: Report, own: Sequence[Finding], rules: Sequence[str]) -> Seen:
    """What a fix of these rules changed. own: the findings that it is for."""
    had, left = (
        {one.rule for one, _ in match(own, [f for f in report.findings if f.rule in rules])[0]}
        for report in (before, after)
    )
    judged_now = {rule for rule in rules if analyzers_of((rule,)) and rule not in _unchecked(after)}
    return Seen(
        in_loop_before=_in_loop(before.recording),
        in_loop_after=_in_loop(after.recording),
        compiles_before=_compiles(before.recording),
        compiles_after=_compiles(after.recording) if _called_again(before) <= _called_again(after) else None,
        breaks_before=_breaks(before.recording),
        breaks_after=_breaks(after.recording),
        once_ms=_once_ms(own),
        resolved=tuple(rule for rule in rules if rule in had & judged_now - left),
        remaining=tuple(rule for rule in rules if rule in left & judged_now),
    )


def _unchecked(report: Report) -> set[str]:
    return {each.rule for each in report.unchecked}


def _in_loop(recording: Recording) -> int | None:
    if recording.syncs is None:
        return None
    return sum(row.count for row in recording.syncs if row.in_loop)


def _compiles(recording: Recording) -> int | None:
    return None if recording.recompiles is None else sum(row.count for row in recording.recompiles)


def _breaks(recording: Recording) -> int | None:
    return None if recording.graph_breaks is None else len(recording.graph_breaks)


def _called_again(report: Report) -> set[str]:
    """What was looked at for recompiles, to the end."""
    return {row.component for row in report.recording.captures or () if row.tried is not None}


def _once_ms(findings: Sequence[Finding]) -> float | None:
    known = [finding.once_ms for finding in findings if finding.once_ms is not None]
    return sum(known) if known else None


def captured(recording: Recording) -> str:
    """What Dynamo's capture says of what is compiled; empty where nobody looked."""
    rows = [row for row in recording.captures or () if row.failure is None]
    whole = [row.component for row in rows if row.fullgraph_ready]
    said = f" Dynamo captures {', '.join(whole)} in one graph each." if whole else ""
    broken = [f"{row.component} ({plural(row.breaks, 'break')})" for row in rows if not row.fullgraph_ready]
    if broken:
        said += f" It breaks the graph of {', '.join(broken)}; --analyzers graph-breaks has the lines."
    return said
