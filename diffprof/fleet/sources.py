"""Traces by path, folder, glob or address: whatever fsspec opens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

from diffprof import __version__
from diffprof.model.errors import UsageError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

SUFFIXES = (".json", ".json.gz", ".nsys-rep", ".sqlite", ".log")
"""Of what is looked for in a folder."""


class Source(NamedTuple):
    """One file. url: as fsspec opens it. stamp: changes where the file does."""

    url: str
    bytes: int
    stamp: str

    @property
    def key(self) -> str:
        """Names what is read from it by this version."""
        told = f"{self.url}\0{self.bytes}\0{self.stamp}\0{__version__}"
        return hashlib.sha256(told.encode()).hexdigest()[:24]

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Where it lies."""
        return self.url.rpartition("/")[0]


def sources(patterns: Sequence[str]) -> list[Source]:
    """The files that these name, each once, by address. Raises UsageError where one names none."""
    found: dict[str, Source] = {}
    for pattern in patterns:
        named = list(_named(pattern))
        if not named:
            raise UsageError(
                f"{pattern!r} names no trace.",
                f"Name files, folders with {' or '.join(SUFFIXES)} files, or a pattern in quotes.",
            )
        found |= {source.url: source for source in named}
    return [found[url] for url in sorted(found)]


def _named(pattern: str) -> Iterator[Source]:
    system, path = _system(pattern)
    try:
        if any(mark in path for mark in "*?["):
            matched = system.glob(path.rstrip("/"), detail=True)
            listed = {name: info for name, info in matched.items() if info["type"] == "file"}
            for name in matched.keys() - listed.keys():
                listed |= _inside(system, name)
        elif system.isdir(path):
            listed = _inside(system, path)
        elif system.isfile(path):
            listed = {path: system.info(path)}
        else:
            listed = {}
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{pattern!r} can't be listed: {error}", "Check the address and who may read it."
        ) from error
    for name, info in listed.items():
        yield Source(system.unstrip_protocol(name), int(info["size"]), _stamp(info))


def _inside(system: AbstractFileSystem, folder: str) -> dict[str, Any]:
    """The traces in a folder and below."""
    return {name: info for name, info in system.find(folder, detail=True).items() if name.endswith(SUFFIXES)}


def _system(pattern: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(pattern)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{pattern!r} can't be opened: {error}", "Install what fsspec asks for.") from error
    return system, path


def _stamp(info: dict[str, object]) -> str:
    known = (info.get(name) for name in ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created"))
    return str(next((each for each in known if each), ""))


@contextmanager
def local(source: Source) -> Iterator[Path]:
    """The file on this machine, copied here where it lies elsewhere."""
    system, path = _system(source.url)
    if source.url.startswith("file://"):
        yield Path(path)
        return
    with TemporaryDirectory(prefix="diffprof-") as folder:
        here = Path(folder, source.name)
        system.get_file(path, str(here))
        yield here
