"""What the rules of this analyzer share: how they word a finding, and when it is worth one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from diffprof.judge.setup_costs import best_share
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import Recording, Setup, SetupPart

WORTH = 0.001
"""Share of the call that a change has to save to be worth a finding, where that is known."""

AMPLE = 0.8
"""Share of the device's memory up to which it is ample: the rest goes to fragments and other processes."""

HEAVY = ("denoiser", "vae")
"""Roles of the models that take the time."""


def setup_of(recording: Recording) -> Setup:
    """The section; a rule that needs it has it."""
    assert recording.setup is not None
    return recording.setup


def judged(recording: Recording, code: str, name: str, message: str, advice: str, **more: Any) -> Finding:
    """A finding with the grade of what it rests on. more: fields of Finding."""
    rests_on: Evidence = more.get("evidence") or Evidence()
    timeline = recording.timeline
    priced = bool(rests_on.kinds or rests_on.events or rests_on.change or (rests_on.syncs and timeline))
    return Finding(
        rule=code,
        name=name,
        kind=name,
        message=message,
        advice=advice,
        grade=timeline.grade if priced and timeline else recording.device.grade,
        **{
            "severity": Severity.MEDIUM,
            "standing": True,
            "cost_note": None if priced else "What it saves is unknown until it is measured.",
            **more,
        },
    )


def is_worth(recording: Recording, rests_on: Evidence) -> bool:
    """Whether a change with this evidence saves enough; True where that can't be told."""
    if rests_on.change is not None:
        share = best_share(recording, rests_on.change)
        return share is None or share >= WORTH
    timeline = recording.timeline
    if timeline is None or not timeline.host_us or setup_of(recording).costs is None:
        return True
    if not rests_on.kinds:
        return False
    whole = sum(timeline.device_us)
    calls = Counter(timeline.kind)
    saved = sum(
        calls[kind] * ((timeline.kinds[kind].device_us or 0.0) - us)
        for kind, us in zip(rests_on.kinds, rests_on.becomes_us, strict=True)
    )
    return saved >= WORTH * whole


def named(parts: list[SetupPart]) -> str:
    """Their names, for a sentence."""
    return ", ".join(part.name for part in parts)


def heavy(setup: Setup, wanted: Callable[[SetupPart], object] = bool) -> list[SetupPart]:
    """Denoisers and VAEs, those that are wanted."""
    return [part for part in setup.parts if part.role in HEAVY and wanted(part)]
