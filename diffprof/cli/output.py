"""stdout is data, stderr is talk."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple, TextIO

import click

from diffprof.model.errors import DiffprofError
from diffprof.model.plain import clean_lines
from diffprof.model.quiet import quiet_libraries


class Terminal(NamedTuple):
    """What stdout can show."""

    columns: int | None
    """Cells of a line; None where it is no terminal and COLUMNS is not set."""
    colour: bool


def terminal(stream: TextIO | None = None) -> Terminal:
    """Its width and whether colours are wanted (NO_COLOR, FORCE_COLOR)."""
    stream = stream or sys.stdout
    if stream is None:  # it was closed
        return Terminal(None, False)
    colour = stream.isatty() and os.environ.get("TERM") != "dumb"
    if os.environ.get("FORCE_COLOR"):
        colour = True
    if os.environ.get("NO_COLOR"):
        colour = False
    sized = stream.isatty() or os.environ.get("COLUMNS", "").isdecimal()
    return Terminal(shutil.get_terminal_size().columns if sized else None, colour)


def emit(text: str | bytes) -> None:
    """Write data to stdout, as it is; bytes in whatever encoding they are.

    A reader that went away is no error: the command goes on to its exit status. Raises DiffprofError
    when the output can't be written for another reason.
    """
    if sys.stdout is None:
        raise DiffprofError("The output could not be written: stdout is closed.", "Send it elsewhere.")
    try:
        if isinstance(text, bytes):
            sys.stdout.flush()
            sys.stdout.buffer.write(text)
        else:
            sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        _silence_stdout()
        raise DiffprofError(
            f"The output could not be written: {error.strerror or error}.",
            "Free some space, or send it elsewhere.",
        ) from error


def _silence_stdout() -> None:
    """What is still buffered goes nowhere, so that the flush at exit does not fail again."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)


def reserve_descriptors() -> None:
    """Where a standard stream was closed, nothing else may get its number: what writes there below Python
    would write into it. stdout stays None: that data is lost is an error."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0)
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def say(text: str) -> None:
    """A remark for the person, on stderr."""
    with contextlib.suppress(OSError):
        for line in clean_lines(text):
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def complain(what: str, hint: str = "") -> None:
    """An error and its next step, on stderr."""
    label = click.style("error:", fg="red", bold=True) if terminal(sys.stderr).colour else "error:"
    first, *rest = clean_lines(what)
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{label} {first}\n")
        for line in [*rest, *(clean_lines(hint) if hint else [])]:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """What the target prints, in Python or below it, goes to stderr: stdout holds the report only."""
    quiet_libraries()
    saved = None
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stdout.flush()
            saved = os.dup(1)
            os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
