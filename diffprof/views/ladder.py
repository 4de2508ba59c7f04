"""The ladder as text, markdown or JSON: predicted or measured beside published, with the error."""

from __future__ import annotations

from diffprof.model.ladder import Ladder, RungResult
from diffprof.model.report import as_json
from diffprof.views.listing import render_list

FORMS = ("text", "json", "markdown")

_COLUMNS = {
    "title": "rung",
    "seconds": "seconds",
    "published": "published",
    "error": "error",
    "memory": "GiB",
    "published_memory": "published",
    "memory_error": "error",
}
_PLAIN = ("title", "seconds", "memory")
"""Columns where nothing is published."""


def render_ladder(ladder: Ladder, form: str, *, width: int | None = None, colour: bool = False) -> str:
    """One line a rung; JSON has the whole ladder."""
    if form == "json":
        return as_json(ladder).decode()
    grades = sorted({rung.grade.value for rung in ladder.rungs if rung.seconds is not None})
    known = any(rung.published_seconds is not None for rung in ladder.rungs)
    columns = {key: name for key, name in _COLUMNS.items() if known or key in _PLAIN}
    lines = [
        f"{ladder.target} on {ladder.device}, {ladder.steps} steps: {' and '.join(grades) or 'not run'}."
    ]
    lines += ladder.notes
    if ladder.source:
        lines.append(f"Published: {ladder.source}")
    rows = [_row(rung) for rung in ladder.rungs]
    return render_list(columns, rows, form, width=width, colour=colour, note="\n".join(lines))


def _row(rung: RungResult) -> dict[str, str | None]:
    return {
        "title": _title(rung),
        "seconds": _figure(rung.seconds, 3),
        "published": _figure(rung.published_seconds, 3),
        "error": _percent(rung.error),
        "memory": _figure(rung.memory_gb, 2),
        "published_memory": _figure(rung.published_memory_gb, 2),
        "memory_error": _percent(rung.memory_error),
    }


def _title(rung: RungResult) -> str:
    why = {"skipped": rung.skipped, "failed": rung.failed}
    return rung.title + "".join(f" ({how}: {text})" for how, text in why.items() if text is not None)


def _figure(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{value:+.1%}"
