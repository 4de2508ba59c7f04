"""What a ladder gave, as plain data, and where it is stored."""

from __future__ import annotations

from pathlib import Path

import msgspec

from diffprof.model.errors import UNREADABLE, DiffprofError, UsageError
from diffprof.model.recording import Grade
from diffprof.model.recording.whole_file import write_whole

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


def to_json(ladder: Ladder) -> bytes:
    """The ladder as JSON, indented; the stored and printed form."""
    return msgspec.json.format(msgspec.json.encode(ladder), indent=1) + b"\n"


def save_ladder(ladder: Ladder, folder: Path) -> Path:
    """Write `ladder.json` into a folder that is there; returns its path.

    Raises DiffprofError when the disk does not take it.
    """
    path = folder / LADDER_FILE
    try:
        write_whole(path, to_json(ladder))
    except OSError as error:
        raise DiffprofError(
            f"The ladder could not be stored in {folder}: {error.strerror or error}.",
            "Free some space or choose another folder with --traces.",
        ) from error
    return path


def load_ladder(folder: Path) -> Ladder | None:
    """The ladder that is stored in a folder; None where there is none.

    Raises UsageError when it can't be read.
    """
    path = folder / LADDER_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    try:
        return msgspec.json.decode(data, type=Ladder)
    except UNREADABLE as error:
        raise UsageError(f"{path} is no ladder: {error}.", "Run `diffprof ladder` again.") from error
