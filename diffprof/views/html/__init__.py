"""A report as one page to send: light and dark, on paper too; nothing loaded from elsewhere. Its one script
copies code and sorts tables."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files

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
from diffprof.views.html.text import prose, text
from diffprof.views.html.timeline import timeline_figures
from diffprof.views.sections import not_checked, tables
from diffprof.views.table import Table
from diffprof.views.verdict import verdict

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'"
"""Of a page without scripts."""


def render_html(report: Report) -> str:
    """The whole report."""
    return "".join(_page(report))


def _page(report: Report) -> Iterator[str]:
    recording = report.recording
    style, script = _resource("page.css"), _resource("page.js")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>diffprof: {text(recording.target.spec)} on {text(recording.device.spec)}</title>\n"
        f"<style>\n{style}</style>\n</head>\n<body>\n"
    )
    plan = report.plan or make_plan(report)
    sections = [(key, title, body) for key, title, body in _sections(report, plan) if body]
    sections += list(_others(report))
    yield from _top(report)
    yield from _figures(report, plan)
    if len(sections) > 1:
        links = (f'<a href="#{key}">{text(title)}</a>' for key, title, _ in sections)
        yield f"<nav>{' '.join(links)}</nav>\n"
    for key, title, body in sections:
        yield f'<section id="{key}">\n<h2>{text(title)}</h2>\n{body}</section>\n'
    yield f"<footer>{text(words.versions(recording))}<br>Recorded {text(recording.created)}. "
    yield f"{text(words.effort(recording))}</footer>\n<script>{script}</script>\n</body>\n</html>\n"


def _others(report: Report) -> Iterator[tuple[str, str, str]]:
    """(id, title, content) for each other pipeline of a script: its verdict, its figures, and its parts."""
    for number, each in list(enumerate(report.alone, 1))[1:]:
        plan, mark = each.plan or make_plan(each), f"p{number}-"
        body = [*_top(each), *_figures(each, plan)]
        for key, title, content in _sections(each, plan, mark):
            if content:
                body.append(f'<section id="{mark}{key}">\n<h3>{text(title)}</h3>\n{content}</section>\n')
        yield f"pipeline-{number}", report.names[number - 1], "".join(body)


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Lets this script run and no other, whatever a report has smuggled in."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{POLICY}; script-src 'sha256-{digest}'"


def _sections(report: Report, plan: Plan, mark: str = "") -> Iterator[tuple[str, str, str]]:
    """(id, title, content); without content it is left out. mark: what ids of findings begin with."""
    recording = report.recording
    ids = {id(finding): f"{mark}finding-{number}" for number, finding in enumerate(report.findings, 1)}
    anchors = {row: ids[id(each)] for each in reversed(report.findings) for row in each.evidence.syncs}
    to_do = actions_table(report)
    yield "actions", "What to do", "".join(_table(to_do)) if to_do else ""
    before_after = comparison_table(report)
    yield (
        "after",
        before_after.title if before_after else "",
        "".join(_table(before_after) if before_after else ()),
    )
    yield "timeline", "Timeline", "".join(timeline_figures(recording, anchors))
    yield "memory", "Memory", "".join(memory_figure(recording.memory, recording.ops))
    for key, title, findings in words.groups(report):
        shown = [each for each in findings if each.severity is not Severity.INFO]
        aside = [each for each in findings if each.severity is Severity.INFO]
        body = "".join(part for each in shown for part in _finding(each, ids[id(each)], plan))
        if aside:
            body += (
                f"<details><summary>{units.plural(len(aside), 'more', 'more')}, for information</summary>\n"
            )
            body += (
                "".join(part for each in aside for part in _finding(each, ids[id(each)], plan))
                + "</details>\n"
            )
        yield key, title, body
    table = fix_table(plan, report.outcomes)
    if table is not None:
        yield "fixes", table.title, "".join(_table(table)) + "".join(_code_of_fixes(report, plan))
    for number, found in enumerate(tables(report), 1):
        yield f"table-{number}", found.title, "".join(_table(found))
    skipped = not_checked(report)
    items = "".join(f"<li><b>{prose(what)}:</b> {prose(why)}</li>\n" for what, why in skipped)
    yield "unchecked", f"Not checked ({len(skipped):,})", f"<ul>\n{items}</ul>\n" if items else ""


# --- the top -------------------------------------------------------------------------------------------


def _top(report: Report) -> Iterator[str]:
    top = verdict(report)
    state = "top" if report.in_loop or report.recording.partial or report.unchecked else "top clean"
    yield f'<p class="brand">diffprof · {text(words.subject(report.recording))}</p>\n'
    yield f'<section class="{state}">\n<h1>{prose(top.headline)}</h1>\n'
    yield f"<p><b>Why</b> {prose(top.why)}</p>\n<p><b>Next</b> {prose(top.next)}</p>\n</section>\n"


def _figures(report: Report, plan: Plan) -> Iterator[str]:
    """The figures that one looks for first, each with its grade. What was not measured says so."""
    recording = report.recording
    rows = list(_key_figures(recording))
    if report.outcomes:
        kept = [each for each in report.outcomes if each.stays and each.after_ms is not None]
        if kept:
            grade = str(kept[-1].grade or units.NOT_MEASURED)
            rows.append(("after the fixes", units.duration(kept[-1].after_ms), grade))
    elif plan.selected and units.duration(plan.after_ms) != units.duration(plan.before_ms):
        note = f"{words.expectation(plan.grade)}, {units.plural(len(plan.selected), 'fix', 'fixes')}"
        rows.append(("expected with the fixes", units.duration(plan.after_ms), note))
    yield '<dl class="figures">\n'
    for name, value, note in rows:
        yield f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>\n"
    yield "</dl>\n"


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


def _finding(finding: Finding, anchor: str, plan: Plan) -> Iterator[str]:
    yield f'<article class="finding {finding.severity.value}" id="{anchor}">\n<header>'
    yield f'<h3>{text(finding.name)}</h3><span class="rule">{text(finding.rule)}</span>'
    yield f'<span class="grade">{finding.grade}</span>'
    yield f'<span class="often">{text(words.how_often(finding))}</span></header>\n'
    yield f"<p>{prose(finding.message)}</p>\n"
    site = finding.site
    if site:
        inside = f' <span class="dim">in {text(site.function)}</span>' if site.function else ""
        yield f'<div class="code">{text(units.place(site))}{inside}</div>\n'
        yield from _excerpt(site)
    edit = next((each for each in plan.edits if each.belongs_to(finding)), None)
    facts = [
        ("where", ", ".join(part for part in (site.module if site else None, words.phase(finding)) if part)),
        ("cost", words.cost(finding)),
        ("instead", finding.advice),
        ("fixes", ", ".join(finding.fixes)),
        ("your source", ("; ".join(edit.what) or f"no edit: {edit.why_not}") if edit else ""),
    ]
    yield '<dl class="facts">\n'
    for name, value in facts:
        if value:
            yield f"<dt>{name}</dt><dd>{prose(value)}</dd>\n"
    yield "</dl>\n"
    if site and site.chain:
        yield "<details><summary>called from</summary>\n<ul>\n"
        for frame in site.chain:
            yield f'<li class="code">{text(f"{frame.file}:{frame.line} in {frame.function}")}</li>\n'
        yield "</ul>\n</details>\n"
    if edit and edit.diff:
        yield from _listing("diff of your source", edit.diff, diff=True)
    yield "</article>\n"


def _excerpt(site: Site) -> Iterator[str]:
    if not site.excerpt:
        return
    numbers = [number for number, _ in site.excerpt]
    known = numbers.index(site.line) if site.line in numbers else None
    digits = len(str(max(numbers)))
    yield "<pre>"
    for number, line in zip(numbers, code_lines([code for _, code in site.excerpt], known), strict=True):
        mark = ' class="mark"' if number == site.line else ""
        yield f'<span{mark}><span class="dim">{number:>{digits}} |</span> {line}</span>'
    yield "</pre>\n"


# --- fixes and tables ----------------------------------------------------------------------------------


def _code_of_fixes(report: Report, plan: Plan) -> Iterator[str]:
    """The source of each fix: of what was tried, else of what is planned."""
    tried = [(each.fix, each.code) for each in report.outcomes or () if each.code]
    for name, code in tried or [(step.fix, step.code) for step in plan.listed]:
        if code:
            yield from _listing(f"source of {name}", code)
    for step in plan.listed:
        if step.patch:
            yield from _listing(f"{step.fix} in your source", step.patch, diff=True)


def _listing(title: str, source: str, *, diff: bool = False) -> Iterator[str]:
    yield f'<details><summary>{text(title)}</summary>\n<pre class="copy">'
    lines = clean_lines(source.rstrip("\n"))
    for mark, line in diff_lines(lines) if diff else (("", line) for line in code_lines(lines)):
        style = f' class="{mark}"' if mark else ""
        yield f"<span{style}>{line or ' '}</span>"
    yield "</pre>\n</details>\n"


_NUMBER = re.compile(r"-?[\d,.]+( ?(%|ms|s|us|GiB|MiB|KiB|B|x))?")
_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?%")


_SHORT, _LONG = 16, 24
"""Characters: a column of shorter cells keeps each on one line; a longer word may be broken anywhere."""


def _table(table: Table) -> Iterator[str]:
    """Without the columns that no row fills."""
    used = [n for n in range(len(table.columns)) if any(row[n] for row in table.rows)]
    columns, rows = [table.columns[n] for n in used], [[row[n] for n in used] for row in table.rows]
    kinds = [_kind(cells) for cells in zip(*rows, strict=True)]
    yield '<div class="scroll"><table>\n<thead><tr>'
    for column, kind in zip(columns, kinds, strict=True):
        yield f'<th class="number">{text(column)}</th>' if kind == "number" else f"<th>{text(column)}</th>"
    yield "</tr></thead>\n<tbody>\n"
    for row in rows:
        cells = zip(columns, row, kinds, strict=True)
        yield f"<tr>{''.join(_cell(*cell) for cell in cells)}</tr>\n"
    yield "</tbody>\n</table></div>\n"
    if table.note:
        yield f'<p class="dim small">{prose(table.note)}</p>\n'


def _kind(cells: Sequence[str]) -> str:
    """What a column is set as: numbers, short words, long names such as places, or prose."""
    if cells and all(_NUMBER.fullmatch(cell) for cell in cells if cell):
        return "number"
    if max(map(len, cells), default=0) <= _SHORT:
        return "short"
    return "long" if any(len(word) > _LONG for cell in cells for word in cell.split()) else ""


def _cell(column: str, value: str, kind: str) -> str:
    share = _SHARE.fullmatch(value) if column == "share" else None
    if share:
        width = min(100.0, float(share[1]))
        return f'<td class="share number" style="background-size:{width:g}% 70%">{text(value)}</td>'
    shown = text(value) if kind == "number" else prose(value)
    return f'<td class="{kind}">{shown}</td>' if kind else f"<td>{shown}</td>"
