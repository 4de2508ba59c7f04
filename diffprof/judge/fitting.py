"""Whether a call fits into its device's memory, and in which phase it takes most."""

from __future__ import annotations

from typing import NamedTuple

from diffprof.model.recording import MemoryUse

PHASES = {
    "encode": "encoding the prompt",
    "prepare": "preparing the latents",
    "denoise": "the denoising loop",
    "decode": "decoding",
    "postprocess": "postprocessing",
}
"""Phases as a sentence names them."""


class Shortfall(NamedTuple):
    """phase: the one that takes most; empty where phases were not told apart. over: those that take too
    much."""

    phase: str
    needs_bytes: int
    has_bytes: int
    over: tuple[str, ...]

    @property
    def lacks_bytes(self) -> int:
        return self.needs_bytes - self.has_bytes

    @property
    def where(self) -> str:
        """`in the denoising loop`."""
        return f"in {PHASES.get(self.phase, self.phase)}" if self.phase else "in the call"


def shortfall(memory: MemoryUse | None) -> Shortfall | None:
    """What a call lacks; None where it fits, or where memory was not recorded."""
    if memory is None or not memory.capacity_bytes or not memory.peak_bytes:
        return None
    has = memory.capacity_bytes
    peaks = {phase: peak for phase, peak in memory.by_phase.items() if peak > has}
    phase = max(peaks, key=peaks.__getitem__, default="")
    needs = max(memory.peak_bytes, peaks.get(phase, 0))
    return Shortfall(phase, needs, has, tuple(peaks)) if needs > has else None


def gib(value: int) -> str:
    """Bytes as a number of GiB: tenths, and three digits below one."""
    size = value / 2**30
    return f"{size:,.1f}".removesuffix(".0") if size >= 1 or not value else f"{size:.3g}"
