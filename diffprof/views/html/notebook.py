"""A report as a cell of a notebook: the answer, and what to do or what was kept."""

from __future__ import annotations

from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.actions import actions_table
from diffprof.views.html.templates import templates
from diffprof.views.tuning import outcomes_table, tried
from diffprof.views.verdict import verdict


def render_cell(report: Report) -> str:
    """HTML without styles or scripts of its own; what was tried takes the place of what is to do."""
    top, outcomes = verdict(report), report.outcomes
    return (
        templates()
        .get_template("cell.html")
        .render(
            subject=words.subject(report.recording),
            headline=top.headline,
            why=top.why if outcomes is None else tried(outcomes),
            table=actions_table(report) if outcomes is None else outcomes_table(outcomes),
            path=report.path,
        )
    )
