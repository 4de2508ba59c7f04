"""What a ladder gave, as plain data, and where it is stored."""

from __future__ import annotations

from pathlib import Path

import msgspec

from diffprof.model.recording import Grade
from diffprof.model.results import load_result, save_result

LADDER_FILE = "ladder.json"


class RungResult(msgspec.Struct, frozen=True, kw_only=True):
    """One rung. memory_gb: GiB, as torch.cuda.max_memory_allocated counts. error: of the seconds, relative
    to the published figure."""

    name: str
    title: str
    grade: Grade
    seconds: float | None = None
    memory_gb: float | None = None
    published_seconds: float | None = None
    published_memory_gb: float | None = None
    error: float | None = None
    memory_error: float | None = None
    skipped: str | None = None
    """Why it was not run, if so."""
    failed: str | None = None
    """What it raised, if it was run and did not come to its end."""


class Ladder(msgspec.Struct, frozen=True, kw_only=True):
    """The ladder of one target on one device."""

    target: str
    device: str
    steps: int
    rungs: tuple[RungResult, ...] = ()
    source: str | None = None
    """Where the published figures are from."""
    notes: tuple[str, ...] = ()


def save_ladder(ladder: Ladder, folder: Path) -> Path:
    """Write `ladder.json` into a folder that is there; returns its path.

    Raises DiffprofError when the disk does not take it.
    """
    return save_result(ladder, folder / LADDER_FILE)


def load_ladder(folder: Path) -> Ladder | None:
    """The ladder that is stored in a folder; None where there is none.

    Raises UsageError when it can't be read.
    """
    return load_result(folder / LADDER_FILE, Ladder, "ladder")
