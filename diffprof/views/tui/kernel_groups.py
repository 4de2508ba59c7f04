"""Device time of the kernels, summed up by what one asks for. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffprof.model.recording import KernelRow

UNKNOWN = "(unknown)"


@dataclass(frozen=True)
class KernelGroup:
    """Kernels with one value of what they are grouped by. share: of all device time, 0..1."""

    name: str
    rows: tuple[KernelRow, ...]
    count: int
    device_us: float
    share: float
    host_us: float | None
    flops: float | None
    bytes: float | None
    family: str
    """The one that takes most of the time."""

    @property
    def mean_us(self) -> float:
        return self.device_us / self.count if self.count else 0.0

    @property
    def tflops(self) -> float | None:
        """Arithmetic reached, in TFLOP/s."""
        return self.flops / self.device_us / 1e6 if self.flops and self.device_us else None

    @property
    def gbytes(self) -> float | None:
        """Memory traffic reached, in GB/s."""
        return self.bytes / self.device_us / 1e3 if self.bytes and self.device_us else None


WAYS: dict[str, Callable[[KernelRow, int], str]] = {
    "kernel": lambda row, depth: row.name,
    "op": lambda row, depth: row.op or UNKNOWN,
    "shape": lambda row, depth: f"{row.op or row.name} {row.shape}".strip(),
    "family": lambda row, depth: row.family or UNKNOWN,
    "module": lambda row, depth: ".".join((row.module or UNKNOWN).split(".")[:depth]),
    "phase": lambda row, depth: row.phase or UNKNOWN,
}
"""What kernels can be grouped by; depth: parts of a module's path."""


def grouped(
    rows: Sequence[KernelRow], by: str, *, depth: int = 3, whole_us: float | None = None
) -> list[KernelGroup]:
    """Groups, the one with most device time first. whole_us: what shares are of, if not of these rows."""
    key = WAYS[by]
    found: dict[str, list[KernelRow]] = {}
    for row in rows:
        found.setdefault(key(row, depth), []).append(row)
    whole = sum(row.device_us for row in rows) if whole_us is None else whole_us
    return sorted((_group(name, own, whole) for name, own in found.items()), key=lambda g: -g.device_us)


def _group(name: str, rows: Sequence[KernelRow], whole: float) -> KernelGroup:
    device = sum(row.device_us for row in rows)
    families: dict[str, float] = {}
    for row in rows:
        families[row.family] = families.get(row.family, 0.0) + row.device_us
    return KernelGroup(
        name=name,
        rows=tuple(rows),
        count=sum(row.count for row in rows),
        device_us=device,
        share=device / whole if whole else 0.0,
        host_us=_known(row.host_us for row in rows),
        flops=_known(row.flops for row in rows),
        bytes=_known(row.bytes for row in rows),
        family=max(families, key=families.__getitem__),
    )


def _known(values: object) -> float | None:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]  # type: ignore[attr-defined]
    return float(sum(known)) if known else None
