"""A report as a cell of a notebook: the answer, and what to do or what was kept."""

from __future__ import annotations

from collections.abc import Iterator

from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.actions import actions_table
from diffprof.views.html.text import prose, text
from diffprof.views.table import Table
from diffprof.views.tuning import outcomes_table, tried
from diffprof.views.verdict import verdict


def render_cell(report: Report) -> str:
    """HTML without styles or scripts of its own; what was tried takes the place of what is to do."""
    top = verdict(report)
    lines = [f"<small>{text(words.subject(report.recording))}</small>", f"<b>{prose(top.headline)}</b>"]
    if report.outcomes is None:
        table = actions_table(report)
        lines.append(prose(top.why))
    else:
        table = outcomes_table(report.outcomes)
        lines.append(prose(tried(report.outcomes)))
    below = [f"<small>Stored in {text(report.path)}</small>"] if report.path else []
    shown = "".join(_table(table)) if table is not None and table.rows else ""
    return f"<div>{'<br>'.join(lines)}\n{shown}{''.join(below)}</div>\n"


def _table(table: Table) -> Iterator[str]:
    heads = "".join(f"<th>{text(column)}</th>" for column in table.columns)
    yield f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
    for row in table.rows:
        yield f"<tr>{''.join(f'<td>{prose(value)}</td>' for value in row)}</tr>\n"
    yield "</tbody>\n</table>\n"
