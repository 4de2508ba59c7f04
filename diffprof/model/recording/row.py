"""What all stored rows share."""

from __future__ import annotations

import enum

import msgspec


class Grade(enum.StrEnum):
    """Where a figure comes from."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    PUBLISHED = "published"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all stored rows: immutable."""
