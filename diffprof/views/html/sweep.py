"""A sweep as one page to send: expense against memory, and curves, as inline SVG; the frontier as a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.resources import files

from diffprof.judge.frontier import AXES, Curve, by_subject, curves, expense, frontier
from diffprof.model.sweep import OK, SweepRow
from diffprof.model.units import number
from diffprof.views.html import POLICY
from diffprof.views.html.text import text
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
    return "".join(_page(rows))


def _page(rows: Sequence[SweepRow]) -> Iterator[str]:
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>diffprof sweep</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<p class="brand">diffprof · sweep</p>\n<h1>{text(summary(rows))}</h1>\n'
    )
    for subject, group in by_subject(rows).items():
        yield from _subject(subject, group)
    yield f"<footer>{text(NOTE)}</footer>\n</body>\n</html>\n"


def _subject(subject: str, rows: Sequence[SweepRow]) -> Iterator[str]:
    best = frontier(rows)
    yield f"<section>\n<h2>{text(subject)}</h2>\n"
    if best:
        yield from _scatter(rows, best)
        yield from _table(best)
    devices = {(row.device, row.mode) for row in best}
    for axis in AXES:
        found = [each for each in curves(rows, axis) if (each.device, each.mode) in devices]
        if found:
            yield from _drawn_curves(found[:_MOST_CURVES], axis)
    why = dict.fromkeys(row.reason for row in rows if row.status != OK and row.reason)
    if not best:
        yield "".join(f"<p>{text(reason)}</p>\n" for reason in why)
    yield "</section>\n"


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


def _axes(x: _Scale, y: _Scale, across: str, up: str, places: Sequence[float] = ()) -> Iterator[str]:
    bottom, right = _HIGH - _BOTTOM, _WIDE - _RIGHT
    for value in places or x.ticks():
        at = x(value)
        yield f'<line class="tick" x1="{at}" x2="{at}" y1="{_TOP}" y2="{bottom}"/>'
        yield _said(number(value), at, bottom + 15, "middle")
    for value in y.ticks():
        at = y(value)
        yield f'<line class="tick" x1="{_LEFT}" x2="{right}" y1="{at}" y2="{at}"/>'
        yield _said(number(value), _LEFT - 6, at + 4, "end")
    yield _said(across, right, _HIGH - 6, "end") + _said(up, 4, 12, "start")


def _said(words: str, left: float, top: float, anchor: str) -> str:
    return f'<text class="dim" x="{left}" y="{top}" text-anchor="{anchor}">{text(words)}</text>\n'


def _scatter(rows: Sequence[SweepRow], best: Sequence[SweepRow]) -> Iterator[str]:
    timed = [row for row in rows if row.status == OK and row.peak_gib]
    x = _Scale([row.peak_gib or 0 for row in timed], _LEFT, _WIDE - _RIGHT)
    y = _Scale([expense(row) or 0 for row in timed], _HIGH - _BOTTOM, _TOP)
    measure = "cost of an image" if best[0].per_thousand is not None else "seconds an image"
    yield f"<figure>\n<figcaption>{measure} against peak memory; both axes are logarithmic</figcaption>\n"
    yield f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="{measure} against memory">\n'
    yield from _axes(x, y, "peak memory, GiB", measure)
    places = [(x(row.peak_gib or 0), y(expense(row) or 0)) for row in best]
    path = "M" + "L".join(f"{left} {top}" for left, top in places)
    for row in timed:
        yield _dot(row, x(row.peak_gib or 0), y(expense(row) or 0), chosen=row in best)
    yield f'<path d="{path}" fill="none" stroke="{COLOURS["int8"]}" stroke-width="1.5" opacity="0.7"/>\n'
    yield from _labels(best, places)
    yield "</svg>\n"
    yield _legend({mode: COLOURS.get(mode, STROKES[3]) for mode in dict.fromkeys(row.mode for row in timed)})
    yield "</figure>\n"


def _labels(best: Sequence[SweepRow], places: Sequence[tuple[float, float]]) -> Iterator[str]:
    """Beside the dots of the frontier, where there is room after the one before."""
    last = (-math.inf, -math.inf)
    for row, (left, top) in zip(best, places, strict=True):
        if left - last[0] < 120 and abs(top - last[1]) < 14:
            continue
        last = left, top
        end = left > _WIDE - 170
        anchor = f'x="{left - 9}" text-anchor="end"' if end else f'x="{left + 9}"'
        yield f'<text {anchor} y="{top - 7}">{text(f"{row.device} {row.mode}, batch {row.batch}")}</text>\n'


def _dot(row: SweepRow, left: float, top: float, *, chosen: bool) -> str:
    cells = row_cells(row)
    told = f"{row.device} {row.mode} batch {row.batch}: {cells['image']} s/image, {cells['memory']} GiB"
    look = 'r="5" stroke="currentColor"' if chosen else 'r="3" opacity="0.55"'
    colour = COLOURS.get(row.mode, STROKES[3])
    return f'<circle cx="{left}" cy="{top}" {look} fill="{colour}"><title>{text(told)}</title></circle>\n'


def _drawn_curves(found: Sequence[Curve], axis: str) -> Iterator[str]:
    values = sorted({value for curve in found for value, _ in curve.points})
    x = _Scale([float(value) for value in values], _LEFT, _WIDE - _RIGHT)
    y = _Scale([seconds for curve in found for _, seconds in curve.points], _HIGH - _BOTTOM, _TOP)
    yield f"<figure>\n<figcaption>seconds an image over {axis}, of what is on the frontier</figcaption>\n"
    yield f'<svg viewBox="0 0 {_WIDE} {_HIGH}" role="img" aria-label="seconds an image over {axis}">\n'
    yield from _axes(x, y, axis, "seconds an image", [float(value) for value in values])
    names: dict[str, str] = {}
    for curve, stroke in zip(found, STROKES, strict=False):
        names[" ".join(filter(None, (curve.device, curve.mode, curve.other)))] = stroke
        path = "M" + "L".join(f"{x(value)} {y(seconds)}" for value, seconds in curve.points)
        yield f'<path d="{path}" fill="none" stroke="{stroke}" stroke-width="2"/>\n'
        for value, seconds in curve.points:
            title = f"<title>{axis} {value}: {number(seconds)} s</title>"
            yield f'<circle cx="{x(value)}" cy="{y(seconds)}" r="3.5" fill="{stroke}">{title}</circle>\n'
    yield f"</svg>\n{_legend(names)}</figure>\n"


def _legend(names: dict[str, str]) -> str:
    square = '<svg viewBox="0 0 10 10"><rect width="10" height="10" fill="{}"/></svg>'
    items = (f"<span>{square.format(colour)}{text(name)}</span>" for name, colour in names.items())
    return f'<div class="legend">{"".join(items)}</div>\n'


def _table(best: Sequence[SweepRow]) -> Iterator[str]:
    cells = [row_cells(row) for row in best]
    heads = {key: head for key, head in _HEADS.items() if any(each[key] for each in cells)}
    yield '<div class="scroll"><table>\n<thead><tr>'
    yield "".join(f"<th>{text(head)}</th>" for head in heads.values()) + "</tr></thead>\n<tbody>\n"
    for row in cells:
        yield "<tr>" + "".join(f"<td>{text(row[key])}</td>" for key in heads) + "</tr>\n"
    yield "</tbody></table></div>\n"
