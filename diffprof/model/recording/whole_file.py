"""Files that are there whole or not at all, whoever else writes the same one at the same time."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PART = ".part"
"""How the name of a file ends that is not whole yet."""


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, under a name that nobody else has; once the block ends it is synced and
    takes the place. Where the block raises, nothing is left and the place is as it was.

    Raises OSError when the disk does not take it.
    """
    part = path.with_name(f"{path.name[:120]}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write bytes, whole or not at all.

    Raises OSError when the disk does not take them.
    """
    with whole_file(path) as file:
        file.write(data)


def writer_of(name: str) -> int | None:
    """The process that writes a file with this name; None where it is no part of one."""
    end = name.removesuffix(PART).rpartition(".")[2].partition("-")[0]
    return int(end) if name.endswith(PART) and end.isdecimal() else None


def _sync_folder(folder: Path) -> None:
    """So that the name outlives a power cut; not every system and file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
