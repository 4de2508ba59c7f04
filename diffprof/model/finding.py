"""A finding: one judgement of one rule at one site, with its cost and the fixes that resolve it."""

from __future__ import annotations

import enum

import msgspec

from diffprof.model.recording import Change, Grade, Site


class Severity(enum.StrEnum):
    """How much a finding matters before anything is priced."""

    HIGH = "high"
    """In the denoising loop, every step."""
    MEDIUM = "medium"
    """In the loop, but not every step; or large outside it."""
    LOW = "low"
    """Once per call."""
    INFO = "info"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the recording that a finding rests on, by section; used to price it by replay.

    syncs: indexes into Recording.syncs. kinds: indexes into Timeline.kinds. events: timeline events.
    becomes_us: device time of one call of each of `kinds` once the finding is resolved; empty: they are gone.
    host_left: share of the host time of launching `kinds` that is left then.
    with_modules: whether the modules that `events` are of are not called either.
    change: the change of the setup that resolves it, where the call was costed with it
    (`Setup.alternatives`).
    """

    syncs: tuple[int, ...] = ()
    kinds: tuple[int, ...] = ()
    events: tuple[int, ...] = ()
    becomes_us: tuple[float, ...] = ()
    host_left: float = 1.0
    with_modules: bool = False
    change: Change | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One judgement of one rule at one site. Times per pipeline call; `None` is not known, never zero."""

    rule: str
    name: str
    kind: str
    message: str
    grade: Grade
    severity: Severity = Severity.LOW
    site: Site | None = None
    phase: str | None = None
    in_loop: bool = False
    standing: bool = False
    """Whether it is how the pipeline is set up, and not something that happens `count` times in a call."""
    count: int = 1
    per_step: float = 0.0
    first_step_only: bool = False
    blocked_ms: float | None = None
    """Host time spent waiting."""
    saves_ms: float | None = None
    """End-to-end time that removing it would save, from running the timeline without it."""
    alone: bool = False
    """Whether `saves_ms` is of this finding alone: savings overlap, and several together save less than their
    sum. The plan has what they save together."""
    compiled_ms: float | None = None
    """Length of the compiled call that `saves_ms` is of, where it is not of the call as it was recorded."""
    once_ms: float | None = None
    """Host time that is spent once in a process and not in every call, such as compiling. Measured."""
    cost_note: str | None = None
    """How the cost is to be read, such as "hidden behind queued GPU work"."""
    fixes: tuple[str, ...] = ()
    """Keys of fixes that resolve it."""
    advice: str = ""
    """The change to make, in a sentence."""
    evidence: Evidence = Evidence()
    allowed: str = ""
    """Why it is allowed on purpose, and where that is written; empty: it is not."""
    fact: bool = False
    """Whether there is nothing to do: it says why all is well here, and counts as no finding."""

    @property
    def where(self) -> str:
        """`file:line`, or what stands for it where there is no single place."""
        if self.site is None:
            return self.phase or "the whole call"
        return f"{self.site.file}:{self.site.line}" if self.site.line else self.site.file

    def __repr__(self) -> str:
        often = f"{self.per_step:g} per step" if self.in_loop and self.per_step else f"{self.count} per call"
        return f"<{self.rule} {self.name} at {self.where}, {often}>"


_SEVERITY_ORDER = {Severity.HIGH: 0, Severity.MEDIUM: 1, Severity.LOW: 2, Severity.INFO: 3}


def sort_key(finding: Finding) -> tuple[object, ...]:
    """What saves most, then what is in the loop, then severity, count and place."""
    return (
        -(finding.saves_ms or 0.0),
        not finding.in_loop,
        _SEVERITY_ORDER[finding.severity],
        -finding.count,
        finding.rule,
        finding.site.file if finding.site else "",
        finding.site.line if finding.site else 0,
    )


class Unchecked(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that could not judge, and why."""

    rule: str
    name: str
    why: str
