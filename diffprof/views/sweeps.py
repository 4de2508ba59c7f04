"""A sweep as text, markdown or JSON: the frontier, curves over an axis, and all rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from diffprof.judge.frontier import AXES, Curve, best, by_subject, curves, expense, frontier
from diffprof.model.plain import clean
from diffprof.model.report import as_json
from diffprof.model.sweep import FAILED, SweepRow
from diffprof.model.units import gib, number, plural
from diffprof.views.listing import render_list
from diffprof.views.predictions import NOTE

SHOWN = ("frontier", "curves", "table")
FEW = 24
"""Rows that are all shown where nothing is chosen."""

_COLUMNS = {
    "target": "target",
    "device": "device",
    "mode": "mode",
    "batch": "batch",
    "steps": "steps",
    "size": "size",
    "scheduler": "scheduler",
    "fixes": "fixes",
    "seconds": "seconds",
    "image": "s/image",
    "cost": "for 1,000",
    "memory": "GiB of",
    "waits": "waits",
    "bound": "bound by",
    "reason": "",
}
_SETTINGS = ("steps", "size", "scheduler", "fixes", "cost", "reason")
"""Columns that are left out where all of their cells are empty."""


def render_sweep(
    rows: Sequence[SweepRow],
    form: str,
    *,
    show: Sequence[str] = (),
    width: int | None = None,
    colour: bool = False,
) -> str:
    """JSON: `rows[]` with every figure. show: parts of SHOWN; empty: those that have something to say."""
    if form == "json":
        return as_json({"rows": [msgspec.to_builtins(row) for row in rows]}).decode()
    chosen = show or (("frontier", "curves", "table") if len(rows) <= FEW else ("frontier", "curves"))
    blocks = [block for part in chosen for block in _PARTS[part](rows, form, width, colour)]
    failed = _failures(rows)
    return "\n".join([*blocks, f"{summary(rows)}\n", *([failed] if failed else []), f"{NOTE}\n"])


def summary(rows: Sequence[SweepRow]) -> str:
    """How many of each kind."""
    found = Counter(row.status for row in rows)
    runs = len({row.run for row in rows})
    told = [f"{count:,} {status}" for status, count in sorted(found.items())]
    return f"{plural(len(rows), 'row')} of {plural(runs, 'run')}: {', '.join(told)}."


def _failures(rows: Sequence[SweepRow]) -> str:
    """Each reason once."""
    why = Counter((row.target, row.reason) for row in rows if row.status == FAILED)
    told = (f"failed: {target}, {plural(n, 'row')}: {text}" for (target, text), n in why.items())
    return "".join(f"{clean(line)}\n" for line in told)


def _frontiers(rows: Sequence[SweepRow], form: str, width: int | None, colour: bool) -> Iterator[str]:
    for subject, group in by_subject(rows).items():
        kept = frontier(group)
        if kept:
            measure = "cost" if kept[0].per_thousand is not None else "seconds an image"
            yield f"{subject}: {measure} against memory, {len(kept)} of {len(group):,}\n" + _listed(
                kept, form, width, colour, leave=("target", "size", "scheduler", "steps")
            )


def _table(rows: Sequence[SweepRow], form: str, width: int | None, colour: bool) -> Iterator[str]:
    yield _listed(rows, form, width, colour)


def _listed(
    rows: Sequence[SweepRow], form: str, width: int | None, colour: bool, leave: Sequence[str] = ()
) -> str:
    cells = [row_cells(row) for row in rows]
    columns = {
        key: head
        for key, head in _COLUMNS.items()
        if key not in leave and (key not in _SETTINGS or any(each[key] for each in cells))
    }
    return render_list(columns, cells, form, width=width, colour=colour)


def row_cells(row: SweepRow) -> dict[str, Any]:
    """What a person reads of a row, by column."""
    memory = "-" if row.peak_gib is None else f"{gib(row.peak_gib)} of {row.memory_gib:g}"
    return {
        "target": row.target,
        "device": row.device,
        "mode": row.mode,
        "batch": str(row.batch),
        "steps": "" if row.steps is None else str(row.steps),
        "size": row.size,
        "scheduler": row.scheduler,
        "fixes": row.fixes,
        "seconds": "-" if row.seconds is None else number(row.seconds),
        "image": "-" if row.seconds_per_image is None else number(row.seconds_per_image),
        "cost": "" if row.per_thousand is None else f"{row.per_thousand:.2f}",
        "memory": memory,
        "waits": "-" if row.waits is None else str(row.waits),
        "bound": row.bound or "",
        "reason": row.reason,
    }


def _curves(rows: Sequence[SweepRow], form: str, width: int | None, colour: bool) -> Iterator[str]:
    kept = {(row.target, row.device, row.mode) for row in best(rows)}
    for axis in AXES:
        found = [each for each in curves(rows, axis) if (each.target, each.device, each.mode) in kept]
        if found:
            yield f"seconds an image over {axis}, on what is on a frontier\n" + _curve_table(
                found, axis, form, width, colour
            )


def _curve_table(found: Sequence[Curve], axis: str, form: str, width: int | None, colour: bool) -> str:
    values = sorted({value for curve in found for value, _ in curve.points})
    columns = {"target": "target", "device": "device", "mode": "mode", "other": "", "line": "shape"}
    columns |= {str(value): f"{axis} {value}" for value in values}
    if not any(curve.other for curve in found):
        columns.pop("other")
    return render_list(columns, [_curve_cells(curve) for curve in found], form, width=width, colour=colour)


def _curve_cells(curve: Curve) -> Mapping[str, str]:
    figures = {str(value): number(seconds) for value, seconds in curve.points}
    own = {"target": curve.target, "device": curve.device, "mode": curve.mode, "other": curve.other}
    return {**own, "line": sparkline([seconds for _, seconds in curve.points]), **figures}


def sparkline(values: Sequence[float]) -> str:
    """One block a value, as high as its share of the largest."""
    top = max(values)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * value / top))] if top else "▁" for value in values)


_PARTS = {"frontier": _frontiers, "curves": _curves, "table": _table}

__all__ = ["SHOWN", "expense", "render_sweep", "row_cells", "sparkline", "summary"]
