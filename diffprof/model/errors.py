"""Errors for people, and the exit codes of the command line."""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from diffprof.model.report import Report

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding JSON raises: not JSON or not of the type, no UTF-8, nested too deeply."""


class ExitCode(enum.IntEnum):
    """What a command's exit status means."""

    CLEAN = 0
    """It ran to its end; nothing that the caller asked to fail on was found."""
    FINDINGS = 1
    """It ran, and found what `--fail-on` (or `--fail-on-regression`) names."""
    USAGE = 2
    """The command, an option, or a file given to it is wrong."""
    TARGET_FAILED = 3
    """The target itself (pipeline, factory or script) failed while it was built or run."""
    UNJUDGED = 4
    """It ran, and what `--fail-on` names could not be checked, or not to the end of the call."""
    INTERNAL = 70
    """diffprof itself failed (sysexits.h's EX_SOFTWARE): a bug to report."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C; what was recorded until then is stored and marked partial."""
    HUNG_UP = 129
    """The same by SIGHUP: the terminal was closed."""
    TERMINATED = 143
    """The same by SIGTERM."""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end. number: which. report: what was recorded until then."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.number = number
        self.report: Report | None = None


class DiffprofError(Exception):
    """An error with its next step.

    what: what happened and why, naming the value. hint: what to do next. report: what was recorded so far.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.report: Report | None = None

    def __str__(self) -> str:
        return f"{self.what}\n{self.hint}" if self.hint else self.what


def carrying(error: DiffprofError | KeyboardInterrupt, report: Report) -> DiffprofError | Stopped:
    """The error with a report; in the place of Python's own KeyboardInterrupt one that can carry it."""
    found = error if isinstance(error, DiffprofError | Stopped) else Stopped()
    found.report = report
    return found


def reported(error: BaseException) -> Report | None:
    """What was recorded until an error came, if anything."""
    return error.report if isinstance(error, DiffprofError | Stopped) else None


class UsageError(DiffprofError):
    """The request can't be carried out as written."""


class TargetError(DiffprofError):
    """The target failed while it was built or run."""

    exit_code = ExitCode.TARGET_FAILED
