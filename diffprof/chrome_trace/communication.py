"""Collectives of distributed runs on the device, and how much of them runs beside computation."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from diffprof.chrome_trace import intervals
from diffprof.chrome_trace.events import EventTable, Trace

_COLLECTIVE = re.compile(r"^(?:nccl|rccl)|(?:nccl|rccl)(?:Dev)?Kernel|^(?:hccl|HcomAll|oneccl)|_ccl_kernel")
"""Kernels of NCCL (`ncclKernel_AllReduce...`, since 2.18 `ncclDevKernel_...`), RCCL, HCCL and oneCCL."""


class Communication(NamedTuple):
    """Microseconds of one device: in which kernels computed, in which collectives ran, and in which both did.
    lengths: of the collectives, in order."""

    computation_us: float
    communication_us: float
    overlap_us: float
    lengths: tuple[float, ...]


def is_collective(name: str) -> bool:
    """Whether a kernel of that name is a collective's."""
    return _COLLECTIVE.search(name) is not None


def communication_of(trace: Trace, device: int) -> Communication | None:
    """What one device does; None where no collective is in the trace."""
    work = trace.work
    shared = np.fromiter((is_collective(name) for name in trace.names), bool, len(trace.names))
    here = (work.device == device) & (work.table == EventTable.KERNEL)
    collective = here & shared[work.name]
    if not collective.any():
        return None
    theirs = intervals.spans(work.ts[collective], work.dur[collective])
    others = here & ~collective
    computes = intervals.spans(work.ts[others], work.dur[others])
    both = intervals.intersection(theirs, computes)
    lengths = tuple(work.dur[collective].tolist())
    return Communication(intervals.total(computes), intervals.total(theirs), intervals.total(both), lengths)
