"""Files of results that are no report: a ladder, predictions. Each is alone in a folder of the runs."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import msgspec

from diffprof.model.errors import UNREADABLE, DiffprofError, UsageError
from diffprof.model.recording.whole_file import write_whole
from diffprof.model.report import as_json

Result = TypeVar("Result")


def save_result(result: object, path: Path) -> Path:
    """Write a result as indented JSON, whole or not at all, in a folder that is there; returns its path.

    Raises DiffprofError when the disk does not take it.
    """
    try:
        write_whole(path, as_json(result))
    except OSError as error:
        raise DiffprofError(
            f"{path.name} could not be stored in {path.parent}: {error.strerror or error}.",
            "Free some space or choose another folder with --traces.",
        ) from error
    return path


def load_result(path: Path, kind: type[Result], command: str) -> Result | None:
    """The result that a file holds; None where there is none. command: makes it anew.

    Raises UsageError when it can't be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror or error}.") from error
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        what = f"{path} holds no {kind.__name__.lower()}: {error}."
        raise UsageError(what, f"Run `diffprof {command}` again.") from error
