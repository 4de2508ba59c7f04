"""What to do, as a table: the same rows on a screen, on a page and in a comment."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.model import units
from diffprof.model.fix import Safety
from diffprof.model.plain import clean
from diffprof.model.report import Report
from diffprof.model.summary import Action
from diffprof.model.units import listed
from diffprof.views.table import Table
from diffprof.views.words import expectation

COLUMNS = ("What to do", "saves", "call then", "picture", "by")
UNKNOWN = "unknown"
_PICTURE = {Safety.EXACT: "same", Safety.NUMERIC: "rounding", Safety.LOSSY: "changes"}


def heading(actions: Sequence[Action]) -> str:
    """Of the table, with the grade of its times where all have one."""
    grades = {expectation(each.grade) for each in actions if each.saves_ms is not None}
    return f"{COLUMNS[0]} (times {listed(sorted(grades))})" if grades else COLUMNS[0]


def actions_table(report: Report) -> Table | None:
    """Every action with its place; None where there is none."""
    actions = report.actions
    if not actions:
        return None
    rows = tuple((*cells_of(action), action.place) for action in actions)
    note = "what each saves after those above it; what changes the picture comes last"
    return Table("What to do", (heading(actions), *COLUMNS[1:], "where"), rows, note)


def _saves(action: Action) -> str:
    if action.makes_room:
        return "memory"
    if action.saves_ms is not None:
        return units.duration(action.saves_ms)
    return UNKNOWN if action.once_ms is None else f"{units.duration(action.once_ms)} once"


def cells_of(action: Action) -> tuple[str, ...]:
    """A cell for each of COLUMNS."""
    known = action.saves_ms is not None
    by = "hand" if action.fix is None else "fix --lossy" if action.changes_picture else "fix"
    if action.makes_room:
        by = "diffprof fit"
    return (
        clean(action.title if action.fix else f"{action.rule}: {action.title}"),
        _saves(action),
        units.duration(action.after_ms) if known and action.after_ms is not None else "",
        UNKNOWN if action.safety is None else _PICTURE.get(action.safety, ""),
        "fix --patch" if action.patch and action.fix is None else by,
    )
