"""The report as TensorBoard's text page shows it, in markdown. Everything from a recording is data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from diffprof.model import units
from diffprof.model.fix import Plan
from diffprof.model.ladder import Ladder
from diffprof.model.plain import clean, cut
from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.fixes import fix_table
from diffprof.views.ladder import render_ladder
from diffprof.views.markdown_text import prose, table
from diffprof.views.sections import not_checked, tables
from diffprof.views.table import Table
from diffprof.views.verdict import verdict

if TYPE_CHECKING:
    from diffprof.views.tensorboard.event_file import EventFile

MOST_FINDINGS = 200
_MOST_TEXT = 500
"""Characters of one cell."""


def write(file: EventFile, report: Report, plan: Plan, ladder: Ladder | None) -> None:
    """All texts of a run. Tags are numbered: TensorBoard sorts them."""
    fixes = fix_table(plan, report.outcomes)
    pages = {
        "1 verdict": _verdict(report),
        "2 findings": _findings(report),
        "3 fixes": _section(fixes) if fixes else "",
        "4 tables": "\n".join(map(_section, tables(report))),
        "5 ladder": ladder_text(ladder) if ladder is not None else "",
        "6 not checked": _not_checked(report),
    }
    for name, text in pages.items():
        if text:
            file.text(f"report/{name}", text)


def _verdict(report: Report) -> str:
    top = verdict(report)
    lines = [
        f"### {_cell(top.headline)}",
        f"**Why:** {_cell(top.why)}",
        f"**Next:** {_cell(top.next)}",
        _cell(words.subject(report.recording)),
        _cell(words.versions(report.recording)),
    ]
    return "\n\n".join(lines)


def _findings(report: Report) -> str:
    if not report.findings:
        return "Nothing was found."
    columns = ("rule", "where", "how often", "what", "cost", "instead", "fixes")
    rows = [
        (
            f"{each.rule} {each.name}",
            units.place(each.site),
            words.how_often(each),
            each.message,
            words.cost(each),
            each.advice,
            ", ".join(each.fixes),
        )
        for each in report.findings[:MOST_FINDINGS]
    ]
    left = len(report.findings) - len(rows)
    more = f"\n{units.plural(left, 'more finding')}: `diffprof show` has all.\n" if left else ""
    return _table(columns, rows) + more


def _section(found: Table) -> str:
    note = f"\n{_cell(found.note)}\n" if found.note else ""
    return f"### {_cell(found.title)}\n\n{_table(found.columns, found.rows)}{note}"


def ladder_text(ladder: Ladder) -> str:
    """One row a rung."""
    return render_ladder(ladder, "markdown")


def _not_checked(report: Report) -> str:
    rows = not_checked(report)
    return _table(("what", "why"), rows) if rows else ""


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    return table(columns, [[cut(clean(cell), _MOST_TEXT) for cell in row] for row in rows])


def _cell(text: object) -> str:
    return prose(cut(clean(text), 4 * _MOST_TEXT))
