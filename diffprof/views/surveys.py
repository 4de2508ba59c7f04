"""A survey, and the difference of two, as text, markdown or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from diffprof.model.report import as_json
from diffprof.model.survey import SurveyChange, SurveyRow
from diffprof.model.units import number, plural
from diffprof.views.listing import render_list

_COLUMNS = {
    "target": "pipeline",
    "waits": "waits",
    "in_loop": "in a step",
    "breaks": "graph breaks",
    "recompiles": "recompiles",
    "grows": "grows",
    "host": "host alone",
    "reason": "",
}
_CHANGES = {
    "target": "pipeline",
    "what": "",
    "where": "line",
    "code": "code",
    "before": "before",
    "after": "after",
}


def render_survey(
    rows: Sequence[SurveyRow], form: str, *, width: int | None = None, colour: bool = False
) -> str:
    """JSON: `rows[]` with every figure and line."""
    if form == "json":
        return as_json({"rows": [msgspec.to_builtins(row) for row in rows]}).decode()
    table = render_list(_COLUMNS, [_cells(row) for row in rows], form, width=width, colour=colour)
    return f"{table}\n{survey_summary(rows)}\n"


def survey_summary(rows: Sequence[SurveyRow]) -> str:
    """How many of each kind, in a sentence."""
    ran = [row for row in rows if row.status == "ok"]
    failed = f", {len(rows) - len(ran)} do not run" if len(ran) < len(rows) else ""
    told = [
        f"{sum(bool(row.in_loop) for row in ran)} wait in every step",
        *_compiled([row for row in ran if row.breaks is not None]),
        f"{sum((row.grows_bytes or 0) > 0 for row in ran)} grow in the loop",
    ]
    return f"{plural(len(rows), 'pipeline')}{failed}: {', '.join(told)} (simulated)."


def _compiled(looked_at: Sequence[SurveyRow]) -> list[str]:
    """Of those whose captures were looked at."""
    if not looked_at:
        return []
    return [
        f"{sum(bool(row.breaks) for row in looked_at)} of {len(looked_at)} break graphs",
        f"{sum(bool(row.recompiles) for row in looked_at)} are compiled again",
    ]


def _cells(row: SurveyRow) -> dict[str, Any]:
    grown = row.grows_bytes
    return {
        "target": row.target,
        "waits": _count(row.waits),
        "in_loop": _count(row.in_loop),
        "breaks": _count(row.breaks),
        "recompiles": _count(row.recompiles),
        "grows": "-" if grown is None else f"{number(grown / 2**10)} KiB" if grown else "0",
        "host": "-" if row.host_us is None else f"{number(row.host_us / 1e3)} ms",
        "reason": row.reason,
    }


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def render_changes(
    changes: Sequence[SurveyChange], form: str, *, width: int | None = None, colour: bool = False
) -> str:
    """JSON: `changes[]`."""
    if form == "json":
        return as_json({"changes": [msgspec.to_builtins(each) for each in changes]}).decode()
    if not changes:
        return "Nothing differs.\n"
    cells = [
        {**msgspec.structs.asdict(c), "before": _count(c.before), "after": _count(c.after)} for c in changes
    ]
    return render_list(_CHANGES, cells, form, width=width, colour=colour)
