"""A report that fits a comment on a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from diffprof.model import units
from diffprof.model.finding import Finding
from diffprof.model.plain import clean, cut
from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.actions import actions_table
from diffprof.views.markdown_text import LIMIT, code, prose, table
from diffprof.views.sections import not_checked, tables
from diffprof.views.table import Table
from diffprof.views.verdict import foremost, named, verdict

_MOST_TEXT = 2_000


def render_markdown(report: Report) -> str:
    """Verdict, findings and what was not checked, cut to LIMIT characters with a note of what is missing."""
    top = verdict(report)
    head = (
        f"### diffprof: {prose(cut(top.headline, _MOST_TEXT))}\n\n"
        f"**Why:** {prose(cut(top.why, _MOST_TEXT))}\n\n**Next:** {prose(cut(top.next, _MOST_TEXT))}\n\n"
        f"{prose(cut(words.subject(report.recording), _MOST_TEXT))}\n"
    )
    to_do = actions_table(foremost(report))
    if to_do is not None:
        head += f"\n{table(to_do.columns, to_do.rows)}"
    blocks = [head]
    used = len(head)
    pieces = [piece for each in report.each for piece in _of_pipeline(report, each)]
    for index, piece in enumerate(pieces):
        if used + len(piece) > LIMIT:
            left = len(pieces) - index
            blocks.append(f"\n_Cut to fit a comment: {units.plural(left, 'more entry', 'more entries')}._\n")
            break
        blocks.append(piece)
        used += len(piece)
    return "".join(blocks)


def _of_pipeline(report: Report, one: Report) -> Iterator[str]:
    """The pieces of a pipeline's report, the first of another's under its name and verdict."""
    top = verdict(one)
    heading = f"\n### {prose(named(report, one))}\n\n{prose(cut(top.headline, _MOST_TEXT))}\n"
    for index, piece in enumerate(_pieces(one)):
        yield piece if index or one is report else heading + piece


def _tables(report: Report) -> Iterator[Table]:
    from diffprof.views.tuning import outcomes_table

    yield from tables(report)
    if report.outcomes is not None:
        yield outcomes_table(report.outcomes)


def _pieces(report: Report) -> Iterator[str]:
    for _, title, findings in words.groups(report):
        for index, finding in enumerate(findings):
            heading = f"\n#### {title}\n\n" if index == 0 else ""
            yield heading + _finding(finding)
    for section in _tables(report):
        note = f"\n{prose(section.note)}\n" if section.note else ""
        yield f"\n#### {section.title}\n\n{table(section.columns, section.rows)}{note}"
    skipped = not_checked(report)
    for index, (what, why) in enumerate(skipped):
        heading = f"\n#### Not checked ({len(skipped)})\n\n" if index == 0 else ""
        yield f"{heading}- {prose(cut(what, _MOST_TEXT))}: {prose(cut(why, _MOST_TEXT))}\n"


def _finding(finding: Finding) -> str:
    site = f" {code(units.place(finding.site))} in {code(finding.site.function)}" if finding.site else ""
    lines = [
        f"- **{prose(finding.rule)} {prose(finding.name)}**{site}, {prose(words.how_often(finding))}",
        f"  {prose(cut(clean(finding.message), _MOST_TEXT))}",
    ]
    marked = (
        [text for number, text in finding.site.excerpt if number == finding.site.line] if finding.site else []
    )
    lines += [f"  {code(cut(clean(text.strip()), 200))}" for text in marked if text.strip()]
    lines.append(f"  Cost: {prose(words.cost(finding))}")
    if finding.advice:
        lines.append(f"  Instead: {prose(cut(clean(finding.advice), _MOST_TEXT))}")
    if finding.fixes:
        lines.append(f"  Fixes: {', '.join(map(code, finding.fixes))}")
    return "  \n".join(lines) + "\n"
