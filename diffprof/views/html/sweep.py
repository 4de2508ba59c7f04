"""A sweep as one page to send: expense against memory, and curves, as inline SVG; the frontier as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from diffprof.judge.frontier import AXES, Curve, by_subject, curves, expense, frontier
from diffprof.model.sweep import OK, SweepRow
from diffprof.model.units import number
from diffprof.views.html.templates import POLICY, resource, templates
from diffprof.views.predictions import NOTE
from diffprof.views.sweeps import row_cells, summary

COLOURS = {"eager": "#8fa3bf", "compiled": "#0072b2", "int8": "#e69f00", "fp8": "#009e73"}
STROKES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#9467bd", "#8c6d31")
"""After Okabe and Ito, as `diffprof.views.palette`."""
_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 390, 64, 24, 26, 40
_MOST_CURVES = len(STROKES)
_HEADS = {
    "device": "device",
    "mode": "mode",
    "batch": "batch",
    "seconds": "seconds",
    "image": "s/image",
    "cost": "for 1,000",
    "memory": "GiB of",
    "waits": "waits",
    "bound": "bound by",
}


def render_sweep_page(rows: Sequence[SweepRow]) -> str:
    """All of it; no scripts, nothing loaded from elsewhere."""
    return (
        templates()
        .get_template("sweep.html")
        .render(
            policy=POLICY,
            title="diffprof sweep",
            style=resource("page.css"),
            summary=summary(rows),
            subjects=[(subject, _subject(group)) for subject, group in by_subject(rows).items()],
            note=NOTE,
        )
    )


def _subject(rows: Sequence[SweepRow]) -> dict[str, object]:
    """Plots and table of one target; why there are none."""
    best = frontier(rows)
    cells = [row_cells(row) for row in best]
    heads = {key: head for key, head in _HEADS.items() if any(each[key] for each in cells)}
    devices = {(row.device, row.mode) for row in best}
    why = dict.fromkeys(row.reason for row in rows if row.status != OK and row.reason)
    drawn = []
    for axis in AXES:
        found = [each for each in curves(rows, axis) if (each.device, each.mode) in devices]
        if found:
            drawn.append(_curves(found[:_MOST_CURVES], axis))
    return {
        "scatter": _scatter(rows, best) if best else None,
        "heads": list(heads.values()),
        "rows": [[each[key] for key in heads] for each in cells],
        "curves": drawn,
        "reasons": () if best else list(why),
    }


class _Scale:
    """A logarithmic axis. low, high: of the data; begin, end: places on the page."""

    def __init__(self, values: Sequence[float], begin: float, end: float) -> None:
        low, high = min(values), max(values)
        room = 1.15 if high / low < 2 else 1.08
        self._low, self._high = math.log(low / room), math.log(high * room)
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        share = (math.log(value) - self._low) / (self._high - self._low)
        return round(self._begin + share * (self._end - self._begin), 1)

    def ticks(self) -> list[float]:
        """Round values inside the axis."""
        low, high = math.exp(self._low), math.exp(self._high)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), tuple(n / 10 for n in range(10, 100))):
            found = [n * 10.0**power for power in powers for n in steps if low <= n * 10.0**power <= high]
            if len(found) >= 3:
                return found[:: math.ceil(len(found) / 12)]
        return [low, high]


def _plot(x: _Scale, y: _Scale, across: str, up: str, places: Sequence[float] = ()) -> dict[str, object]:
    """Axes, as the macro `axes` draws them."""
    return {
        "wide": _WIDE,
        "high": _HIGH,
        "left": _LEFT,
        "right": _WIDE - _RIGHT,
        "top": _TOP,
        "bottom": _HIGH - _BOTTOM,
        "across": across,
        "up": up,
        "across_ticks": [(x(value), number(value)) for value in places or x.ticks()],
        "up_ticks": [(y(value), number(value)) for value in y.ticks()],
    }


def _scatter(rows: Sequence[SweepRow], best: Sequence[SweepRow]) -> dict[str, object]:
    timed = [row for row in rows if row.status == OK and row.peak_gib]
    x = _Scale([row.peak_gib or 0 for row in timed], _LEFT, _WIDE - _RIGHT)
    y = _Scale([expense(row) or 0 for row in timed], _HIGH - _BOTTOM, _TOP)

    def place(row: SweepRow) -> tuple[float, float]:
        return x(row.peak_gib or 0), y(expense(row) or 0)

    measure = "cost of an image" if best[0].per_thousand is not None else "seconds an image"
    modes = dict.fromkeys(row.mode for row in timed)
    return {
        **_plot(x, y, "peak memory, GiB", measure),
        "dots": [(*place(row), _colour(row.mode), row in best, _told(row)) for row in timed],
        "path": _path([place(row) for row in best]),
        "stroke": COLOURS["int8"],
        "labels": list(_labels([(row, *place(row)) for row in best])),
        "legend": [(_colour(mode), mode) for mode in modes],
    }


def _colour(mode: str) -> str:
    return COLOURS.get(mode, STROKES[3])


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{left} {top}" for left, top in places)


def _labels(places: Sequence[tuple[SweepRow, float, float]]) -> Iterator[tuple[float, float, bool, str]]:
    """(left, top, whether it ends there, words) beside the dots of the frontier, where there is room after
    the one before."""
    last = (-math.inf, -math.inf)
    for row, left, top in places:
        if left - last[0] < 120 and abs(top - last[1]) < 14:
            continue
        last = left, top
        ends = left > _WIDE - 170
        yield left - 9 if ends else left + 9, top - 7, ends, f"{row.device} {row.mode}, batch {row.batch}"


def _told(row: SweepRow) -> str:
    cells = row_cells(row)
    return f"{row.device} {row.mode} batch {row.batch}: {cells['image']} s/image, {cells['memory']} GiB"


def _curves(found: Sequence[Curve], axis: str) -> dict[str, object]:
    values = sorted({value for curve in found for value, _ in curve.points})
    x = _Scale([float(value) for value in values], _LEFT, _WIDE - _RIGHT)
    y = _Scale([seconds for curve in found for _, seconds in curve.points], _HIGH - _BOTTOM, _TOP)
    names: dict[str, str] = {}
    lines = []
    for curve, stroke in zip(found, STROKES, strict=False):
        names[" ".join(filter(None, (curve.device, curve.mode, curve.other)))] = stroke
        path = _path([(x(value), y(seconds)) for value, seconds in curve.points])
        points = [(x(at), y(seconds), f"{axis} {at}: {number(seconds)} s") for at, seconds in curve.points]
        lines.append((path, stroke, points))
    return {
        **_plot(x, y, axis, "seconds an image", [float(value) for value in values]),
        "lines": lines,
        "legend": [(stroke, name) for name, stroke in names.items()],
    }
