"""How fast a GPU moves bytes: from its memory, and from its last cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .specs import GpuSpec

STREAM = 0.88
"""Share of the bandwidth that contiguous kernels reach: half-precision additions of microsoft/vidur reach
0.88 to 0.90 on an A100, 0.84 to 0.90 on an A40, 0.86 to 0.97 on an H100."""

CACHE_BYTES_A_CLOCK = 16.0
"""Bytes a clock and processor from the last cache: V100 17.6, T4 20 [arXiv:1804.06826, arXiv:1903.07486]."""

CACHE_SHARE = 0.5
"""Share of the last cache up to which what a kernel moves stays there: its inputs were written just
before."""


def bytes_per_us(spec: GpuSpec, moved: float, share: float = STREAM) -> float:
    """Rate for a kernel that moves so many bytes. share: of the bandwidth, where they come from memory."""
    memory = spec.bytes_per_us * share
    # An MI300X's kernels are no faster where its last cache holds what they move [traces of one in
    # AMD-AGI/TraceLens: additions of 30 MB and of 800 MB].
    if spec.vendor == "amd" or moved > CACHE_SHARE * spec.cache_mib * 2**20:
        return memory
    return max(memory, CACHE_BYTES_A_CLOCK * spec.cycles_per_us)


def floor_us(spec: GpuSpec, moved: float) -> float:
    """What moving so many bytes takes at least."""
    return moved / bytes_per_us(spec, moved, 1.0)
