"""The memory of the call as inline SVG: what is in use over its operations, and what the device has."""

from __future__ import annotations

from collections.abc import Iterator

from diffprof.model.recording import MemoryUse
from diffprof.model.units import size
from diffprof.views.html.text import text
from diffprof.views.html.timeline import COLUMNS
from diffprof.views.lanes import ticks

_LEFT, _TOP, _HEIGHT = 60, 12, 130
_GIB = 2**30
_SHOWN = 2.0
"""The device's memory is drawn where the peak is at least its half; else it would press the curve flat."""


def memory_figure(memory: MemoryUse | None, ops: int | None) -> Iterator[str]:
    """Nothing where no curve was recorded. ops: operations of the call."""
    if memory is None or not memory.curve:
        return
    last = max(ops or 0, memory.curve[-1].op + 1)
    peak = max(point.bytes for point in memory.curve)
    capacity = memory.capacity_bytes
    drawn = capacity if capacity is not None and peak * _SHOWN >= capacity else None
    where = f", in {memory.peak_phase}" if memory.peak_phase else ""
    yield f"<figure>\n<figcaption>Memory in use, {text(size(peak))} at its peak{text(where)} "
    yield f'({memory.grade})</figcaption>\n<svg viewBox="0 0 {_LEFT + COLUMNS + 10} {_HEIGHT + 46}" '
    yield 'role="img" aria-label="memory in use">\n'
    yield from _drawn(memory, last, float(max(peak, drawn or 0, 1)), drawn)
    yield "</svg>\n</figure>\n"


def _drawn(memory: MemoryUse, last: int, top: float, capacity: int | None) -> Iterator[str]:
    bottom, right = _TOP + _HEIGHT, _LEFT + COLUMNS

    def x(op: float) -> float:
        return round(_LEFT + op / last * COLUMNS, 1)

    def y(used: float) -> float:
        return round(bottom - used / top * _HEIGHT, 1)

    for at in ticks(top / _GIB, 5):
        place = y(at * _GIB)
        yield f'<line class="tick" x1="{_LEFT}" x2="{right}" y1="{place}" y2="{place}"/>\n'
        yield f'<text class="dim" x="{_LEFT - 6}" y="{place + 4:g}" text-anchor="end">{at:.3g} GiB</text>\n'
    steps = "".join(f"H{x(point.op):g}V{y(point.bytes):g}" for point in memory.curve)
    yield f'<path class="memory" d="M{x(memory.curve[0].op):g} {bottom}{steps}H{right}V{bottom}z"/>\n'
    if capacity is not None:
        yield f'<line class="limit" x1="{_LEFT}" x2="{right}" y1="{y(capacity)}" y2="{y(capacity)}"/>\n'
        yield f'<text class="dim" x="{right}" y="{y(capacity) - 3:g}" text-anchor="end">'
        yield f"the device has {text(size(capacity))}</text>\n"
    for at in ticks(last):
        yield f'<text class="dim" x="{x(at)}" y="{bottom + 16}" text-anchor="middle">{at:,.10g}</text>\n'
    yield f'<text class="dim" x="{right}" y="{bottom + 30}" text-anchor="end">operations of the call</text>\n'
