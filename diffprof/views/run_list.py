"""The stored runs as a list. In a pipe every text stands whole; on a screen a run takes few lines of its
width, and what tells runs apart is kept."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from diffprof.model.plain import clean, cut, width
from diffprof.model.report import slug
from diffprof.model.runs import StoredRun
from diffprof.views.listing import render_list
from diffprof.views.words import age

_COLUMNS = {
    "run": "run",
    "target": "target",
    "device": "device",
    "findings": "findings",
    "in_loop": "in loop",
    "age": "age",
    "note": "note",
}
_MOST_NAME, _MOST_TARGET, _MOST_DEVICE, _MOST_ERROR = 64, 40, 24, 300
"""Cells of a text on a screen."""
_GAP = 2

Row = Mapping[str, Any]


def run_list(
    runs: Sequence[StoredRun],
    form: str,
    now: datetime.datetime,
    *,
    columns: int | None = None,
    colour: bool = False,
) -> str:
    """columns: cells of the screen; None where there is none."""
    rows = [_row(run, now) for run in runs]
    if form != "text" or columns is None:
        return render_list(_COLUMNS, rows, form, colour=colour)
    shown = _short(rows)
    heads = {key: head for key, head in _COLUMNS.items() if any(row[key] is not None for row in shown)}
    if _cells(heads, shown) > columns and all(run.error or slug(run.target) in run.name for run in runs):
        heads.pop("target", None)  # the names say it
    damaged = [
        cut(clean(f"{row['run']}: {run.error}"), _MOST_ERROR)
        for row, run in zip(shown, runs, strict=True)
        if run.error
    ]
    return render_list(heads, shown, form, width=columns, colour=colour, note="\n".join(damaged))


def _row(run: StoredRun, now: datetime.datetime) -> dict[str, object]:
    return {
        "run": run.name,
        "path": str(run.folder),
        "target": run.target or None,
        "device": run.device or None,
        "created": run.created or None,
        "age": age(run.created, now) if run.created else None,
        "in_loop": run.in_loop,
        "findings": run.findings,
        "partial": run.partial,
        "error": run.error,
        "note": _note(run),
    }


def _note(run: StoredRun) -> str | None:
    if run.error:
        return f"unreadable: {run.error}"
    return "partial" if run.partial else run.alone or None


def _short(rows: Sequence[Row]) -> list[Row]:
    """The rows with their long texts cut, names so that they stay apart; why a run can't be read stands below
    the list."""
    cut_texts = {
        "run": told_apart([clean(row["run"]) for row in rows], _MOST_NAME),
        "target": [row["target"] and cut_middle(clean(row["target"]), _MOST_TARGET) for row in rows],
        "device": [row["device"] and cut_middle(clean(row["device"]), _MOST_DEVICE) for row in rows],
    }
    return [
        {
            **row,
            **{key: texts[number] for key, texts in cut_texts.items()},
            "note": "damaged" if row["error"] else row["note"],
        }
        for number, row in enumerate(rows)
    ]


def told_apart(names: Sequence[str], cells: int) -> list[str]:
    """Clean names of at most that many cells, no two alike unless the names are: cut in the middle, or, where
    they differ only there, before that place. What is still alike then stays whole."""
    groups: dict[str, set[str]] = {}
    for name in names:
        groups.setdefault(cut_middle(name, cells), set()).add(name)
    found: dict[str, str] = {}
    for short, alike in groups.items():
        if len(alike) == 1:
            found[alike.pop()] = short
            continue
        first, last = min(alike), max(alike)
        same = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        head = cells // 4
        shorts = {
            name: cut(name, head) + cut_middle(name[max(same - head, head) :], cells - head) for name in alike
        }
        found |= shorts if len(set(shorts.values())) == len(shorts) else {name: name for name in alike}
    return [found[name] for name in names]


def _cells(heads: Mapping[str, str], rows: Sequence[Row]) -> int:
    """Width of the table."""
    texts = {
        key: [head, *(clean(row[key]) for row in rows if row[key] is not None)] for key, head in heads.items()
    }
    return sum(max(map(width, each)) for each in texts.values()) + _GAP * (len(heads) - 1)


def cut_middle(text: str, cells: int) -> str:
    """At most that many cells of a clean text: its beginning and its end, with an ellipsis between them."""
    if width(text) <= cells:
        return text
    head = cut(text, cells // 2 + 1)[:-1]
    end = text[-cells:]
    while end and width(head) + 1 + width(end) > cells:
        end = end[1:]
    return f"{head}…{end}"
