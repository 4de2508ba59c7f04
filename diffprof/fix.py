"""What a fix is, without the code that applies it: its key, its safety and its effect in words."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Safety(enum.StrEnum):
    """What a fix may do to the output."""

    EXACT = "exact"
    """Bit-identical output."""
    NUMERIC = "numeric"
    """Within a stated tolerance."""
    LOSSY = "lossy"
    """The image changes; opt in."""
    ADVICE = "advice"
    """Shown, never run."""


@dataclass(frozen=True)
class Fix:
    """A change that resolves findings. key: kebab case, what findings name in `fixes`."""

    key: str
    title: str
    safety: Safety
    tolerance: float | None = None
    """Largest absolute difference allowed for NUMERIC."""
