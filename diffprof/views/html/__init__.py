"""A report as one page to send: light and dark, on paper too; nothing loaded from elsewhere. Its one script
copies code and sorts tables."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from diffprof.judge.figures import call_ms, device_busy
from diffprof.judge.plan import make_plan
from diffprof.model import units
from diffprof.model.finding import Finding, Severity
from diffprof.model.fix import Plan
from diffprof.model.plain import clean_lines
from diffprof.model.recording import Recording, Site, steady_per_step
from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.actions import actions_table
from diffprof.views.fixes import fix_table
from diffprof.views.html.before_after import comparison_table
from diffprof.views.html.code import code_lines, diff_lines
from diffprof.views.html.memory import memory_figure
from diffprof.views.html.templates import POLICY, part, resource, templates
from diffprof.views.html.timeline import timeline_figures
from diffprof.views.sections import not_checked, tables
from diffprof.views.table import Table
from diffprof.views.verdict import verdict

Section = tuple[str, str, Markup]
"""Id, title and content; without content it is left out."""


def render_html(report: Report) -> str:
    """The whole report."""
    recording = report.recording
    plan = report.plan or make_plan(report)
    script = resource("page.js")
    return (
        templates()
        .get_template("report.html")
        .render(
            policy=_policy(script),
            title=f"diffprof: {recording.target.spec} on {recording.device.spec}",
            style=resource("page.css"),
            script=script,
            head=_head(report, plan),
            sections=[*_filled(_sections(report, plan)), *_others(report)],
            versions=words.versions(recording),
            created=recording.created,
            effort=words.effort(recording),
        )
    )


def _filled(sections: Iterator[Section]) -> list[Section]:
    return [each for each in sections if each[2]]


def _others(report: Report) -> Iterator[Section]:
    """For each other pipeline of a script: its verdict, its figures, and its parts."""
    for number, each in list(enumerate(report.alone, 1))[1:]:
        plan, mark = each.plan or make_plan(each), f"p{number}-"
        body = part("pipeline", _head(each, plan), mark, _filled(_sections(each, plan, mark)))
        yield f"pipeline-{number}", report.names[number - 1], body


def _policy(script: str) -> Markup:
    """Lets this script run and no other, whatever a report has smuggled in."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return POLICY + Markup(f"; script-src 'sha256-{digest}'")


def _sections(report: Report, plan: Plan, mark: str = "") -> Iterator[Section]:
    """mark: what ids of findings begin with."""
    recording = report.recording
    ids = {id(finding): f"{mark}finding-{number}" for number, finding in enumerate(report.findings, 1)}
    anchors = {row: ids[id(each)] for each in reversed(report.findings) for row in each.evidence.syncs}
    yield "actions", "What to do", _table(actions_table(report))
    before_after = comparison_table(report)
    yield "after", before_after.title if before_after else "", _table(before_after)
    yield "timeline", "Timeline", timeline_figures(recording, anchors)
    yield "memory", "Memory", memory_figure(recording.memory, recording.ops)
    for key, title, findings in words.groups(report):
        told = [(each, _finding(each, ids[id(each)], plan)) for each in findings]
        shown = [parts for each, parts in told if each.severity is not Severity.INFO]
        aside = [parts for each, parts in told if each.severity is Severity.INFO]
        more = units.plural(len(aside), "more", "more")
        yield key, title, part("findings", shown, aside, more) if told else Markup()
    table = fix_table(plan, report.outcomes)
    if table is not None:
        yield "fixes", table.title, _table(table) + _code_of_fixes(report, plan)
    for number, found in enumerate(tables(report), 1):
        yield f"table-{number}", found.title, _table(found)
    skipped = not_checked(report)
    yield "unchecked", f"Not checked ({len(skipped):,})", part("unchecked", skipped) if skipped else Markup()


# --- the top -------------------------------------------------------------------------------------------


def _head(report: Report, plan: Plan) -> dict[str, Any]:
    """What the macro `top` shows."""
    unclean = report.in_loop or report.recording.partial or report.unchecked
    return {
        "subject": words.subject(report.recording),
        "state": "top" if unclean else "top clean",
        "verdict": verdict(report),
        "figures": list(_figures(report, plan)),
    }


def _figures(report: Report, plan: Plan) -> Iterator[tuple[str, str, str]]:
    """The figures that one looks for first, each with its grade. What was not measured says so."""
    yield from _key_figures(report.recording)
    if report.outcomes:
        kept = [each for each in report.outcomes if each.stays and each.after_ms is not None]
        if kept:
            grade = str(kept[-1].grade or units.NOT_MEASURED)
            yield "after the fixes", units.duration(kept[-1].after_ms), grade
    elif plan.selected and units.duration(plan.after_ms) != units.duration(plan.before_ms):
        note = f"{words.expectation(plan.grade)}, {units.plural(len(plan.selected), 'fix', 'fixes')}"
        yield "expected with the fixes", units.duration(plan.after_ms), note


def _key_figures(recording: Recording) -> Iterator[tuple[str, str, str]]:
    timed = recording.timing or recording.timeline
    grade = str(timed.grade) if timed else ""
    what = "trace" if recording.target.kind == "trace" else "one call"
    why = words.doubts(recording.timing) if recording.timing else ""
    note = f"{grade}, not to be trusted: {why}" if why else grade
    yield what, units.duration(call_ms(recording)), note
    yield from _waits(recording)
    if (busy := device_busy(recording)) is not None:
        yield "device busy", f"{units.number(busy * 100)} %", grade
    if recording.memory is not None:
        of = recording.memory.capacity_bytes
        note = str(recording.memory.grade) + (f", of {units.size(of)}" if of is not None else "")
        yield "peak memory", units.size(recording.memory.peak_bytes), note


def _waits(recording: Recording) -> Iterator[tuple[str, str, str]]:
    """Waits per step where denoising steps are told, else those of all that was recorded."""
    rows = recording.syncs
    outside = sum(row.count for row in rows or () if not row.in_loop)
    if rows is None:
        yield "waits per denoising step", units.NOT_MEASURED, ""
    elif recording.target.steps is None and not any(row.in_loop for row in rows):
        yield "waits", f"{outside:,}", ""
    else:
        rate = steady_per_step([row for row in rows if row.in_loop])
        yield "waits per denoising step", units.number(rate), f"{outside:,} outside the loop"


# --- findings ------------------------------------------------------------------------------------------


def _finding(finding: Finding, anchor: str, plan: Plan) -> dict[str, object]:
    """What the macro `finding` shows."""
    site = finding.site
    edit = next((each for each in plan.edits if each.belongs_to(finding)), None)
    where = ", ".join(filter(None, (site.module if site else None, words.phase(finding))))
    facts = [
        ("where", where),
        ("cost", words.cost(finding)),
        ("instead", finding.advice),
        ("fixes", ", ".join(finding.fixes)),
        ("your source", ("; ".join(edit.what) or f"no edit: {edit.why_not}") if edit else ""),
    ]
    return {
        "severity": finding.severity.value,
        "anchor": anchor,
        "name": finding.name,
        "rule": finding.rule,
        "grade": finding.grade,
        "often": words.how_often(finding),
        "message": finding.message,
        "site": site,
        "place": units.place(site) if site else "",
        "excerpt": _excerpt(site) if site else (),
        "facts": facts,
        "diff": _listing("diff of your source", edit.diff, diff=True) if edit and edit.diff else "",
    }


def _excerpt(site: Site) -> list[tuple[str, str, bool]]:
    """(number, line, whether it is the one meant)."""
    if not site.excerpt:
        return []
    numbers = [number for number, _ in site.excerpt]
    known = numbers.index(site.line) if site.line in numbers else None
    digits = len(str(max(numbers)))
    lines = code_lines([code for _, code in site.excerpt], known)
    return [(f"{n:>{digits}}", line, n == site.line) for n, line in zip(numbers, lines, strict=True)]


# --- fixes and tables ----------------------------------------------------------------------------------


def _code_of_fixes(report: Report, plan: Plan) -> Markup:
    """The source of each fix: of what was tried, else of what is planned."""
    tried = [(each.fix, each.code) for each in report.outcomes or () if each.code]
    sources = tried or [(step.fix, step.code) for step in plan.listed]
    return Markup().join(
        [
            *(_listing(f"source of {name}", code) for name, code in sources if code),
            *(
                _listing(f"{step.fix} in your source", step.patch, diff=True)
                for step in plan.listed
                if step.patch
            ),
        ]
    )


def _listing(title: str, source: str, *, diff: bool = False) -> Markup:
    lines = clean_lines(source.rstrip("\n"))
    return part("listing", title, diff_lines(lines) if diff else [("", line) for line in code_lines(lines)])


_NUMBER = re.compile(r"-?[\d,.]+( ?(%|ms|s|us|GiB|MiB|KiB|B|x))?")
_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?%")


_SHORT, _LONG = 16, 24
"""Characters: a column of shorter cells keeps each on one line; a longer word may be broken anywhere."""


def _table(table: Table | None) -> Markup:
    """Without the columns that no row fills."""
    if table is None:
        return Markup()
    used = [n for n in range(len(table.columns)) if any(row[n] for row in table.rows)]
    columns = [table.columns[n] for n in used]
    kinds = [_kind([row[n] for row in table.rows]) for n in used]
    rows = [[(row[n], _share(table.columns[n], row[n])) for n in used] for row in table.rows]
    return part("table", columns, kinds, rows, table.note)


def _kind(cells: Sequence[str]) -> str:
    """What a column is set as: numbers, short words, long names such as places, or prose."""
    if cells and all(_NUMBER.fullmatch(cell) for cell in cells if cell):
        return "number"
    if max(map(len, cells), default=0) <= _SHORT:
        return "short"
    return "long" if any(len(word) > _LONG for cell in cells for word in cell.split()) else ""


def _share(column: str, value: str) -> str | None:
    """The width of a share's bar, in per cent; None for what is none."""
    share = _SHARE.fullmatch(value) if column == "share" else None
    return f"{min(100.0, float(share[1])):g}" if share else None
