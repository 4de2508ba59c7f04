"""Findings as a linter prints them: a line each, or with source and what to write instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from diffprof.model import units
from diffprof.model.finding import Finding
from diffprof.model.plain import clean
from diffprof.views import words

if TYPE_CHECKING:
    from diffprof.model.report import Report


def line(finding: Finding) -> str:
    """`file:line: CODE name: what`, for editors and for grep. What has no line is named by its place."""
    where = units.place(finding.site) if finding.site else f"({words.phase(finding)})"
    return clean(f"{where}: {finding.rule} {finding.name}: {finding.message}")


def with_source(finding: Finding) -> str:
    """The line, the source around it, how often and at what cost, and what to do instead."""
    lines = [line(finding), *_source(finding)]
    lines.append(f"  = {words.how_often(finding)}; {clean(words.cost(finding))}")
    if finding.advice:
        lines.append(f"  = instead: {clean(finding.advice)}")
    return "\n".join(lines)


def listing(findings: Iterable[Finding]) -> str:
    """All of them with their source, a blank line between two."""
    return "\n\n".join(map(with_source, findings))


def failure(report: Report, findings: Sequence[Finding], head: str) -> str:
    """Of an assertion: the findings; then what is wrong, of what, and where the report lies."""
    end = f"{head}: {words.subject(report.recording)}"
    kept = f"\nreport: {report.path} (`diffprof show {report.path}`)" if report.path else ""
    return f"{listing(findings)}\n\n{end}{kept}" if findings else f"{end}{kept}"


def _source(finding: Finding) -> list[str]:
    site = finding.site
    if site is None or not any(number == site.line for number, _ in site.excerpt):
        return []
    wide = max(len(str(number)) for number, _ in site.excerpt)
    rows = [
        f"{'>' if number == site.line else ' '} {number:>{wide}} | {clean(text)}".rstrip()
        for number, text in site.excerpt
    ]
    return [f"  {' ' * wide} |", *rows, f"  {' ' * wide} |"]
