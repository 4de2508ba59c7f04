"""From a Python stack to the line that a person would edit."""

from __future__ import annotations

import functools
import inspect
import linecache
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from diffprof.model.recording import Frame, Site

EXCERPT_LINES = 2
"""Source lines shown on either side of the site."""

_MACHINERY = ("torch", "diffprof", "accelerate", "numpy", "functorch", "torchao", "tqdm")
"""Packages that carry out what other code asks for: nobody edits them to remove a wait."""
_PIPELINES = "diffprof/corpus/"
"""What is scanned, though it is in the package."""

_COMMANDS = Path(__file__).parents[1] / "cli"
_STDLIB = os.path.realpath(sysconfig.get_paths()["stdlib"]) + os.sep
_SITE_DIRS = ("site-packages", "dist-packages")

_FOLDERS: list[Path] = []
"""The working directory before code of others ran, which may change it."""


@contextmanager
def named_from_here() -> Iterator[None]:
    """Inside, files are named relative to the working directory of now."""
    _FOLDERS.append(Path.cwd())
    try:
        yield
    finally:
        _FOLDERS.pop()


@functools.cache
def importable_path(filename: str) -> tuple[str, bool]:
    """The file as it would be imported (`diffusers/schedulers/x.py`) and whether it is the user's own.

    A package is recognised by its `__init__.py` chain, so an editable checkout is named like an installed
    one but counts as the user's own. A lone file is named relative to the working directory, unless homes
    lie in that: the user's name would be a folder like any other.
    """
    path = Path(filename)
    if not path.is_absolute():
        return filename, not filename.startswith("<")
    for marker in _SITE_DIRS:
        if marker in path.parts:
            at = len(path.parts) - 1 - path.parts[::-1].index(marker)
            return "/".join(path.parts[at + 1 :]), False
    top = path.parent
    while (top / "__init__.py").exists() and top.parent != top:
        top = top.parent
    if top != path.parent:
        return path.relative_to(top).as_posix(), not filename.startswith(_STDLIB)
    if os.path.realpath(filename).startswith(_STDLIB):
        return path.name, False
    folder, home = _FOLDERS[0] if _FOLDERS else Path.cwd(), Path("~").expanduser()
    if path.is_relative_to(folder) and (folder == home or not home.is_relative_to(folder)):
        return path.relative_to(folder).as_posix(), True
    return path.as_posix(), True


def file_of(name: str) -> Path | None:
    """Where a file lies that `importable_path` has named, if it is there from the working directory, or its
    lines were looked up in this process, as those of every site are."""
    with suppress(OSError, ValueError):  # the name may come out of a stored report
        if (path := Path(*_FOLDERS[:1], name)).is_file():
            return path
    looked_up = (each for each in list(linecache.cache) if each.endswith(name))
    named = (Path(each) for each in looked_up if importable_path(each)[0] == name)
    return next((each for each in named if each.is_file()), None)  # code run from memory is in none


@functools.cache
def is_machinery(filename: str) -> bool:
    """Whether a person would look past this file for the cause of a wait."""
    if filename.startswith("<"):
        return True
    name, user = importable_path(filename)
    if name.startswith(_PIPELINES):
        return False
    if name.split("/", 1)[0] in _MACHINERY and "/" in name:
        return True
    return not user and is_stdlib(filename)


@functools.cache
def is_stdlib(filename: str) -> bool:
    """Whether a file is of Python's own library."""
    if filename.startswith("<frozen"):
        return True
    return os.path.realpath(filename).startswith(_STDLIB) and not _installed(filename)


def _installed(filename: str) -> bool:
    return any(marker in Path(filename).parts for marker in _SITE_DIRS)


def stack(depth: int = 1) -> Iterator[FrameType]:
    """The frames of the caller's stack, innermost first, starting `depth` frames above this one."""
    frame: FrameType | None = sys._getframe(depth + 1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def values_in(frame: FrameType) -> dict[str, object]:
    """What the local names of a running function stand for, or the names of a module or a class body.

    Where Python keeps a copy of a function's at its frame (before 3.13), that is emptied: it would keep alive
    what the function lets go of.
    """
    names = frame.f_locals
    found = dict(names)
    if frame.f_code.co_flags & inspect.CO_OPTIMIZED and isinstance(names, dict):
        names.clear()
    return found


def source_line(filename: str, line: int) -> str:
    """The stripped text of a source line; empty when there is no source."""
    return linecache.getline(filename, line).strip()


def function_name(frame: FrameType) -> str:
    """The qualified name, with `<locals>` left out."""
    return frame.f_code.co_qualname.replace(".<locals>", "")


Place = tuple[str, int, str]
"""(file name, line, function): a frame without the frame."""


@functools.cache
def is_command_line(filename: str) -> bool:
    """Whether a file is of the commands: above it is nobody's code."""
    return Path(filename).is_relative_to(_COMMANDS)


def caller(frames: Iterable[FrameType]) -> FrameType | None:
    """The first frame of a person's code among these, innermost first; None where the command line is all
    that is above."""
    for frame in frames:
        if is_command_line(frame.f_code.co_filename):
            return None
        if not is_machinery(frame.f_code.co_filename):
            return frame
    return None


def places(frames: list[FrameType]) -> tuple[Place, ...]:
    """The frames that a person would look at, innermost first; all of them when none is left."""
    kept = tuple(
        (f.f_code.co_filename, f.f_lineno, function_name(f))
        for f in frames
        if not is_machinery(f.f_code.co_filename)
    )
    if kept or not frames:
        return kept
    inner = frames[0]
    return ((inner.f_code.co_filename, inner.f_lineno, function_name(inner)),)


def asked_at() -> Site | None:
    """The line outside of diffprof and of what it looks through that led here."""
    frames = [frame for frame in stack(2) if not is_machinery(frame.f_code.co_filename)]
    return make_site(places(frames), None) if frames else None


def make_site(chain: tuple[Place, ...], module: str | None) -> Site:
    """The innermost place as a site, with its source and the chain of calls above it."""
    if not chain:
        return Site(file="<unknown>", line=0, function="<unknown>", module=module)
    filename, line, function = chain[0]
    file, user = importable_path(filename)
    around = range(max(1, line - EXCERPT_LINES), line + EXCERPT_LINES + 1)
    lines = [(n, linecache.getline(filename, n).rstrip("\n")) for n in around]
    while lines and not lines[-1][1]:
        lines.pop()
    return Site(
        file=file,
        line=line,
        function=function,
        module=module,
        user_code=user,
        excerpt=tuple(lines),
        chain=tuple(
            Frame(file=importable_path(name)[0], line=n, function=where, code=source_line(name, n))
            for name, n, where in chain[1:]
        ),
    )
