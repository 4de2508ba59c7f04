"""A report for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from diffprof.model import units
from diffprof.model.finding import Finding, Severity
from diffprof.model.plain import clean, cut, width
from diffprof.model.recording import Site
from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.page import Page
from diffprof.views.sections import not_checked, tables
from diffprof.views.tuning import add_outcomes
from diffprof.views.verdict import named, verdict

_MOST_CODE = 200
"""Cells of a source line shown; generated code has lines of megabytes."""
_MOST_FACTS = 5
_COLOURS = {Severity.HIGH: "red", Severity.MEDIUM: "yellow"}


def render_text(
    report: Report, *, columns: int | None = None, colour: bool = False, chains: bool = False
) -> str:
    """Verdict, findings (in-loop first), tables, fixes tried, what was not checked, of each pipeline; where
    it is stored.

    chains: with the calls that led to each finding.
    """
    page = Page(columns, colour=colour)
    top = verdict(report)
    page.flow(("bold", top.headline), label="Verdict", label_style="bold")
    page.flow(top.why, label="Why", label_style="bold")
    page.flow(top.next, label="Next", label_style="bold")
    _body(page, report, chains)
    for each in report.pipelines:
        _section(page, report, each, chains)
    if report.path:
        page.blank()
        page.whole(("dim", f"Stored in {report.path}"))
    return page.text()


def _section(page: Page, report: Report, one: Report, chains: bool) -> None:
    """The report on another pipeline of the script."""
    top = verdict(one)
    page.heading(f"Another pipeline of the script: {named(report, one)}")
    page.flow(("bold", top.headline))
    page.flow(top.why)
    _body(page, one, chains)


def _body(page: Page, report: Report, chains: bool) -> None:
    page.blank()
    page.flow(("dim", words.subject(report.recording)))
    page.flow(("dim", words.versions(report.recording)))
    if effort := words.effort(report.recording):
        page.flow(("dim", f"This scan: {effort}"))
    if report.recording.partial:
        page.flow(("red", f"Partial: {report.recording.failure or 'the run ended early'}"))
    for _, title, findings in words.groups(report):
        _findings(page, title, findings, chains)
    _facts(page, report.facts)
    for table in tables(report):
        page.heading(table.title)
        page.table(table.columns, table.rows, indent=2)
        if table.note:
            page.flow(("dim", table.note), indent=2)
    add_outcomes(page, report)
    skipped = not_checked(report)
    if skipped:
        page.heading(f"Not checked ({len(skipped)})")
        for what, why in skipped:
            page.flow(("bold", f"{what}:"), why, indent=2)


def _findings(page: Page, title: str, findings: Sequence[Finding], chains: bool) -> None:
    page.heading(title)
    for finding in findings:
        page.blank()
        _finding(page, finding)
        if chains and finding.site:
            for frame in finding.site.chain:
                page.whole(("dim", f"called from {frame.file}:{frame.line} in {frame.function}"), indent=4)


def _facts(page: Page, facts: Sequence[Finding]) -> None:
    if not facts:
        return
    page.heading(f"As it should be ({len(facts)})")
    for fact in facts[:_MOST_FACTS]:
        page.flow(("code", fact.rule), units.place(fact.site) if fact.site else "", fact.message, indent=2)
    if len(facts) > _MOST_FACTS:
        page.flow(("dim", f"{len(facts) - _MOST_FACTS} more, in the tables below"), indent=2)


def _finding(page: Page, finding: Finding) -> None:
    page.flow(
        ("code", finding.rule),
        (_COLOURS.get(finding.severity, "bold"), f"{finding.name}:"),
        words.how_often(finding),
    )
    site = finding.site
    if site:
        inside = f" in {site.function}" if site.function else ""
        page.whole(("cyan", units.place(site)), ("dim", inside), indent=2)
    context = [part for part in (site.module if site else None, words.phase(finding)) if part]
    page.flow(("dim", ", ".join(context)), indent=2)
    if site:
        _excerpt(page, site)
    page.flow(finding.message, indent=2)
    page.flow(words.cost(finding), indent=2, label="cost")
    if finding.advice:
        page.flow(finding.advice, indent=2, label="instead")
    if finding.fixes:
        page.flow(", ".join(finding.fixes), indent=2, label="fixes")


def _excerpt(page: Page, site: Site) -> None:
    digits = max((len(str(number)) for number, _ in site.excerpt), default=0)
    lines = [clean(code.expandtabs(4).rstrip()) for _, code in site.excerpt]
    if page.columns is not None and any(width(line) + digits + 9 > page.columns for line in lines):
        lines = textwrap.dedent("\n".join(lines)).split("\n")
    for (number, _), line in zip(site.excerpt, lines, strict=True):
        marked = number == site.line
        shown = cut(line, _MOST_CODE)
        page.code(
            ("mark" if marked else "dim", f"{'>' if marked else ' '} {number:>{digits}} | "),
            ("bold" if marked else "dim", shown),
            indent=4,
        )
