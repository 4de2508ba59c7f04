"""Kernel times measured on silicon, and what they say between the measured points.

One archive a GPU in `tables/`, written by `build_tables`; `tables/NOTICE.md` says whose measurements they
are.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).with_name("tables")

STEPS = 512.0
"""Steps that the natural logarithm of a time is kept in: 0.1 % of it."""

Trend = Callable[..., float]
"""The part of a kernel's time that goes in steps (waves of tiles), by the coordinates of the table."""


@dataclass(frozen=True)
class KernelTable:
    """Times of one kernel on one GPU over a grid: microseconds by matrix sizes, or by heads, tokens and head
    size.

    axes: ascending coordinates. log_us: natural logarithms.
    """

    axes: tuple[tuple[float, ...], ...]
    log_us: np.ndarray

    def us(self, *point: float, trend: Trend | None = None, share: float = 1.0) -> float:
        """The time at a point, linear in the logarithms between the eight points around it.

        Outside of the grid: that of the edge. trend, share: what is interpolated is the time
        over `trend ** share`, so that its steps stay where they are.
        """
        cells = [_cell(axis, value) for axis, value in zip(self.axes, point, strict=True)]
        total = 0.0
        for corner in range(1 << len(cells)):
            weight, index = 1.0, []
            for bit, (low, part) in enumerate(cells):
                upper = corner >> bit & 1
                weight *= part if upper else 1.0 - part
                index.append(low + upper)
            if weight:
                value = float(self.log_us[tuple(index)])
                if trend is not None:
                    value -= share * math.log(trend(*(a[i] for a, i in zip(self.axes, index, strict=True))))
                total += weight * value
        if trend is not None:
            total += share * math.log(trend(*self.nearest(*point)))
        return math.exp(total)

    def nearest(self, *point: float) -> tuple[float, ...]:
        """The point itself inside of the grid, the nearest one of its edge outside."""
        return tuple(min(max(value, axis[0]), axis[-1]) for axis, value in zip(self.axes, point, strict=True))

    def covers(self, *point: float) -> bool:
        """Whether the point lies inside of the grid."""
        return self.nearest(*point) == point


def _cell(axis: Sequence[float], value: float) -> tuple[int, float]:
    """(index of the point below, share of the way to the next one, by logarithms)."""
    if len(axis) == 1:
        return 0, 0.0
    value = min(max(value, axis[0]), axis[-1])
    low = min(max(bisect_right(axis, value) - 1, 0), len(axis) - 2)
    return low, math.log(value / axis[low]) / math.log(axis[low + 1] / axis[low])


def packed(log_us: np.ndarray) -> np.ndarray:
    """Logarithms as small whole numbers, each less the one before it on the first axis."""
    steps = np.rint(log_us * STEPS).astype(np.int16)
    return np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1]))


def unpacked(deltas: np.ndarray) -> np.ndarray:
    return np.cumsum(deltas.astype(np.int32), axis=0) / STEPS


def table_names(gpu: str) -> tuple[str, ...]:
    """Kernels measured on a GPU: `matmul.bf16`, `attention.fa2`."""
    file = FOLDER / f"{gpu}.npz"
    if not file.exists():
        return ()
    with np.load(file) as archive:
        return tuple(sorted(name.removesuffix(".us") for name in archive.files if name.endswith(".us")))


@cache
def load_table(gpu: str, name: str) -> KernelTable | None:
    """The table of one kernel on one GPU; None where it was not measured."""
    file = FOLDER / f"{gpu}.npz"
    if not file.exists():
        return None
    with np.load(file) as archive:
        if f"{name}.us" not in archive.files:
            return None
        log_us = unpacked(archive[f"{name}.us"])
        axes = tuple(tuple(map(float, archive[f"{name}.{n}"])) for n in range(log_us.ndim))
    return KernelTable(axes, _in_order(log_us) if name.startswith("attention") else log_us)


def _in_order(log_us: np.ndarray) -> np.ndarray:
    """With fewer heads or tokens attention takes no longer: the times of a few microseconds are noise."""
    for axis in (0, 1):
        log_us = np.flip(np.minimum.accumulate(np.flip(log_us, axis), axis), axis)
    return log_us
