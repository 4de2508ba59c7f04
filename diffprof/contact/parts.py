"""The parts of a contact, in order: the most important first."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from diffprof.contact.store import Work


@dataclass(frozen=True)
class Place:
    """Where a contact is made. device: `cuda`, `cuda:1`, or `cpu` for a rehearsal. simulated: the simulated
    GPU that stands beside it. short: tiny models and few shapes."""

    device: str
    simulated: str
    short: bool

    @property
    def real(self) -> bool:
        return self.device.startswith("cuda")


@dataclass(frozen=True)
class ContactPart:
    """seconds: the most that it may take. module: has `items(place)`, pairs of a key and its work."""

    key: str
    title: str
    seconds: float
    module: str

    def items(self, place: Place) -> Iterator[tuple[str, Work]]:
        return importlib.import_module(f"diffprof.contact.{self.module}").items(place)


PARTS = (
    ContactPart("environment", "Environment", 25, "machine"),
    ContactPart("checks", "Checks of the CUDA paths", 100, "checks"),
    ContactPart("waits", "Waits: four witnesses", 130, "waits"),
    ContactPart("kernels", "Kernels: predicted and measured", 120, "kernels"),
    ContactPart("ladder", "The ladder's eager rungs, and blocks compiled", 90, "rungs"),
    ContactPart("linears", "A linear under each quantization scheme", 50, "linears"),
    ContactPart("fixes", "Fixes applied to planted faults", 70, "planted"),
    ContactPart("graphs", "Graph breaks and recompiles", 40, "graphs"),
)

TOTAL_S = 540.0
"""Nine minutes for all of them: a part begins with what its box or the total leaves, whichever is less."""
