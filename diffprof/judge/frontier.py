"""What of many predictions is worth looking at: none of the others is better in both figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from diffprof.model.sweep import OK, SweepRow

AXES = ("batch", "steps")
"""Settings over which a figure is followed."""


class Curve(msgspec.Struct, frozen=True):
    """One figure over an axis, all other settings alike. points: (value, seconds an image) by value."""

    axis: str
    target: str
    device: str
    mode: str
    other: str
    points: tuple[tuple[int, float], ...]


def subject(row: SweepRow) -> str:
    """What is made: rows of one subject make the same pictures, by the settings."""
    steps = "" if row.steps is None else f"{row.steps} steps"
    told = [row.target, row.size, row.dtype, row.scheduler, steps]
    return " ".join(filter(None, told))


def expense(row: SweepRow) -> float | None:
    """Of one image: its cost where prices are known, else seconds."""
    return row.seconds_per_image if row.per_thousand is None else row.per_thousand / 1000


def frontier(rows: Iterable[SweepRow]) -> tuple[SweepRow, ...]:
    """Rows of one subject that no other beats in memory and expense, by memory."""
    timed = [
        (row.peak_gib, made, row)
        for row in rows
        if row.status == OK and row.peak_gib is not None and (made := expense(row)) is not None
    ]
    kept: list[SweepRow] = []
    best = float("inf")
    for _, made, row in sorted(timed, key=lambda each: each[:2]):
        if made < best:
            kept.append(row)
            best = made
    return tuple(kept)


def by_subject(rows: Sequence[SweepRow]) -> dict[str, list[SweepRow]]:
    """Rows by what is made, in their order."""
    return _grouped(rows, subject)


def best(rows: Sequence[SweepRow]) -> tuple[SweepRow, ...]:
    """The frontiers of all subjects, in their order."""
    return tuple(row for group in by_subject(rows).values() for row in frontier(group))


def curves(rows: Sequence[SweepRow], axis: str) -> tuple[Curve, ...]:
    """Seconds an image over `batch` or `steps`, of whatever has two values or more."""

    def alike(row: SweepRow) -> tuple[Any, ...]:
        rest = (
            [f"batch {row.batch}"] if axis == "steps" else [] if row.steps is None else [f"{row.steps} steps"]
        )
        other = [row.size, row.dtype, row.scheduler, row.fixes, *rest]
        return row.target, row.device, row.mode, " ".join(filter(None, other))

    found = []
    for (target, device, mode, other), group in _grouped(rows, alike).items():
        points = {
            getattr(row, axis): row.seconds_per_image
            for row in group
            if row.status == OK and getattr(row, axis) is not None and row.seconds_per_image is not None
        }
        if len(points) > 1:
            found.append(Curve(axis, target, device, mode, other, tuple(sorted(points.items()))))
    return tuple(found)


def _grouped(rows: Iterable[SweepRow], key: Callable[[SweepRow], object]) -> dict[Any, list[SweepRow]]:
    groups: dict[object, list[SweepRow]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups
