"""Whether a call fits into its device's memory, and in which phase it takes most."""

from __future__ import annotations

from typing import NamedTuple

from diffprof.model.recording import MemoryKind, MemoryUse, Setup

PHASES = {
    "encode": "encoding the prompt",
    "prepare": "preparing the latents",
    "denoise": "the denoising loop",
    "decode": "decoding",
    "postprocess": "postprocessing",
}
"""Phases as a sentence names them."""

NOTICEABLE = 0.1
"""Share of what a call lacks that a change has to give back to be told."""


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


def needed_on_device(setup: Setup, memory: MemoryUse | None) -> tuple[int, int]:
    """Bytes that a call takes with all weights on the device, at least and at most: the weights, and what is
    no weight when most is in use; or all that is in use then, which with offloading may hold weights too."""
    weights = sum(size for part in setup.parts for size in part.dtypes.values())
    if memory is None:
        return weights, weights
    kinds = (MemoryKind.WEIGHTS, MemoryKind.IDLE_WEIGHTS)
    others = sum(each.bytes for each in memory.at_peak or () if each.kind not in kinds)
    return weights + others, weights + max(memory.peak_bytes or 0, others)


_RUNS_IN = {"denoise": "denoiser", "decode": "vae"}


def halving_makes_room(setup: Setup, short: Shortfall) -> bool:
    """Whether half precision takes a noticeable part of what is lacked, of models that are mostly in float32:
    some keep a part of them so in half precision too. Where models are kept off the device, those that run in
    the phases that take too much count alone."""
    parts = [
        p for p in setup.parts if 2 * p.dtypes.get("float32", 0) > sum(p.dtypes.values()) and not p.quantized
    ]
    if setup.offload is not None:
        roles = {_RUNS_IN.get(phase, "") for phase in short.over}
        parts = [p for p in parts if (p.role if p.role in _RUNS_IN.values() else "") in roles]
    return sum(part.dtypes["float32"] for part in parts) / 2 > NOTICEABLE * short.lacks_bytes
