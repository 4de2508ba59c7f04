"""Colours of kernel families and of what a track does, the same in every picture.

Apart from each other for people who tell red from green badly (after Okabe and Ito,
https://jfly.uni-koeln.de/color/), and readable on white and on black.
"""

from __future__ import annotations

from diffprof.views.timeline_bands import FULL, IDLE, WAITS, WORKS

COLOURS = {
    WORKS: "#8fa3bf",
    WAITS: "#d55e00",
    FULL: "#b9c4d3",
    IDLE: "#c9cdd4",
    "gemm": "#0072b2",
    "attention": "#9467bd",
    "conv": "#009e73",
    "norm": "#56b4e9",
    "pointwise": "#e69f00",
    "reduction": "#b07aa1",
    "copy": "#cc79a7",
    "memset": "#b39c4d",
    "sort": "#8c6d31",
    "fft": "#637939",
}

NAMES = {
    WORKS: "host works",
    WAITS: "host waits for the device",
    FULL: "host waits: launch queue full",
    IDLE: "device idle",
}
"""Of what is no family of kernels."""

_OTHER = "#7f7f7f"


def colour_of(what: str) -> str:
    """`#rrggbb`; grey for a family without a colour of its own."""
    return COLOURS.get(what, _OTHER)
