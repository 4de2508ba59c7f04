"""The memory of the call as inline SVG: what is in use over its operations, and what the device has."""

from __future__ import annotations

from markupsafe import Markup

from diffprof.model.recording import MemoryUse
from diffprof.model.units import size
from diffprof.views.html.templates import part
from diffprof.views.html.timeline import COLUMNS
from diffprof.views.timeline_bands import ticks

_LEFT, _TOP, _HEIGHT = 60, 12, 130
_GIB = 2**30
_SHOWN = 2.0
"""The device's memory is drawn where the peak is at least its half; else it would press the curve flat."""


def memory_figure(memory: MemoryUse | None, ops: int | None) -> Markup:
    """Nothing where no curve was recorded. ops: operations of the call."""
    if memory is None or not memory.curve:
        return Markup()
    last = max(ops or 0, memory.curve[-1].op + 1)
    peak = max(point.bytes for point in memory.curve)
    capacity = memory.capacity_bytes
    drawn = capacity if capacity is not None and peak * _SHOWN >= capacity else None
    top = float(max(peak, drawn or 0, 1))
    bottom, right = _TOP + _HEIGHT, _LEFT + COLUMNS

    def x(op: float) -> float:
        return round(_LEFT + op / last * COLUMNS, 1)

    def y(used: float) -> float:
        return round(bottom - used / top * _HEIGHT, 1)

    where = f", in {memory.peak_phase}" if memory.peak_phase else ""
    steps = "".join(f"H{x(point.op):g}V{y(point.bytes):g}" for point in memory.curve)
    picture = {
        "caption": f"Memory in use, {size(peak)} at its peak{where} ({memory.grade})",
        "wide": right + 10,
        "high": _HEIGHT + 46,
        "left": _LEFT,
        "right": right,
        "bottom": bottom,
        "sizes": [(y(at * _GIB), f"{at:.3g} GiB") for at in ticks(top / _GIB, 5)],
        "path": f"M{x(memory.curve[0].op):g} {bottom}{steps}H{right}V{bottom}z",
        "limit": None if drawn is None else y(drawn),
        "limit_words": "" if drawn is None else f"the device has {size(drawn)}",
        "ops": [(x(at), f"{at:,.10g}") for at in ticks(last)],
    }
    return part("memory", picture)
