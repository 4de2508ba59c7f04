"""What every kind of kernel's time is told with: where it comes from, and how far it may be off."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import NamedTuple


class Origin(enum.StrEnum):
    """Where a kernel's time comes from."""

    MEASURED = "measured"
    """From a table of this GPU."""
    SIBLING = "sibling"
    """From a table of a GPU of the same architecture, scaled by the two sheets."""
    MODELLED = "modelled"
    """From a formula with rates of kernels like it."""
    INFERRED = "inferred"
    """From a rate that no kernel run this way was measured at, or a single one."""


MARGIN = {Origin.MEASURED: 0.10, Origin.SIBLING: 0.15, Origin.MODELLED: 0.25, Origin.INFERRED: 0.50}
"""Half width of the range that nine of ten times lie in, by origin: ninth deciles of the errors of points
left out of the tables, of a sibling's tables left out, and of kernels of traces (`docs/accuracy.md`). An
inferred one is a judgement: single figures of attention with a mask lie 0.05 to 0.9 of those without."""


class Time(NamedTuple):
    """Microseconds of a kernel's work without its start. floor: what no kernel could be faster than."""

    us: float
    floor: float
    origin: Origin = Origin.MODELLED
    compute: bool = True
    """Whether arithmetic and not memory bounds it."""


def margin_of(shares: Mapping[str, float]) -> float:
    """How far a sum of times may be off, from the shares of their origins: errors of one origin go
    together, those of several do not."""
    return math.sqrt(sum((MARGIN[Origin(origin)] * share) ** 2 for origin, share in shares.items()))
