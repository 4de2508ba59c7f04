"""What became of each target of a check: plain data."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from diffprof.judge.comparing import Comparison
from diffprof.model.errors import ExitCode
from diffprof.model.finding import Finding
from diffprof.model.report import Report


class CheckStatus(enum.StrEnum):
    """What became of one target on one device."""

    CLEAN = "clean"
    FOUND = "found"
    """Something that may not be there."""
    UNJUDGED = "unjudged"
    """Something that it rests on was not recorded."""
    FAILED = "failed"
    """It did not run."""


_CODES = {
    CheckStatus.CLEAN: ExitCode.CLEAN,
    CheckStatus.UNJUDGED: ExitCode.UNJUDGED,
    CheckStatus.FOUND: ExitCode.FINDINGS,
    CheckStatus.FAILED: ExitCode.TARGET_FAILED,
}
"""From the least to the worst."""


class Known(msgspec.Struct, frozen=True, kw_only=True, order=True, omit_defaults=True):
    """Findings that look the same. source: the text of the line, stripped."""

    rule: str
    kind: str
    in_loop: bool = False
    file: str = ""
    function: str = ""
    source: str = ""
    count: int = 1

    @property
    def key(self) -> tuple[str, ...]:
        """As `place_key` of the findings."""
        return (self.rule, self.kind, str(self.in_loop), self.file, self.function, self.source)


class TargetCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One target on one device. new: findings that fail it; known: how many the baseline has; gone: what the
    baseline has and is not there any more. said: other reasons, in sentences."""

    name: str
    device: str
    status: CheckStatus = CheckStatus.CLEAN
    report: Report | None = None
    named: tuple[int, ...] = ()
    """Indexes into the report's findings: what its gate names, new and known."""
    new: tuple[Finding, ...] = ()
    known: int = 0
    gone: tuple[Known, ...] = ()
    said: tuple[str, ...] = ()
    against: Comparison | None = None
    """What changed against another revision or environment."""


def exit_code(found: Sequence[TargetCheck]) -> ExitCode:
    """The worst of all: a target that did not run, then findings, then what was not judged."""
    worst = list(_CODES)
    return _CODES[max((each.status for each in found), key=worst.index, default=CheckStatus.CLEAN)]
