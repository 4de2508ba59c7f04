"""The table of schedulers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from diffprof.judge.schedulers import SchedulerRow
from diffprof.model.units import number
from diffprof.views.listing import render_list

_COLUMNS = {
    "scheduler": "scheduler",
    "per_step_text": "per step",
    "in_loop": "in loop",
    "outside": "outside",
    "where": "where, in the loop",
}


def render_schedulers(
    rows: Sequence[SchedulerRow], form: str, *, width: int | None = None, colour: bool = False
) -> str:
    """Blocking operations by scheduler; those that don't take the call, below. JSON has each row's own
    fields."""
    if form == "json":
        return render_list(_COLUMNS, [msgspec.to_builtins(row) for row in rows], form)
    shown = [
        {
            "scheduler": row.scheduler,
            "per_step_text": None if row.per_step is None else number(row.per_step),
            "in_loop": row.in_loop,
            "outside": row.outside,
            "where": _where(row.sites),
        }
        for row in rows
        if not row.error
    ]
    steps = {row.steps for row in rows if row.steps is not None}
    grades = {row.grade for row in rows if row.grade is not None}
    note = "Blocking operations in one call"
    if steps:
        note += f" of {' to '.join(str(n) for n in sorted({min(steps), max(steps)}))} steps"
    if grades:
        note += f" ({', '.join(sorted(grades))})"
    text = render_list(_COLUMNS, shown, form, width=width, colour=colour, note=f"{note}.")
    failed = [{"scheduler": row.scheduler, "error": row.error} for row in rows if row.error]
    if failed:
        columns = {"scheduler": "scheduler", "error": "why it does not run"}
        text += "\n" + render_list(columns, failed, form, width=width, colour=colour)
    return text


def _where(sites: Sequence[str]) -> str:
    """`file.py:1, 2; other.py:3`, by file name: all lines lie in diffusers or the user's scheduler."""
    by_file: dict[str, list[str]] = {}
    for site in sites:
        file, _, line = site.rpartition(":")
        by_file.setdefault(file.rsplit("/", 1)[-1], []).append(line)
    return "; ".join(f"{file}:{', '.join(lines)}" for file, lines in by_file.items())
