"""Figures and places in words, the same in every view. Unknown is said, never shown as zero."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffprof.model.finding import Finding
from diffprof.model.plain import clean
from diffprof.model.recording import Doubt, Grade, Recording, TargetInfo, Timing
from diffprof.model.units import (
    NOT_MEASURED,
    duration,
    number,
    plural,
    seconds,
)

if TYPE_CHECKING:
    from diffprof.model.report import Report

_DOUBTS = {
    Doubt.ONE_PASS: "made once, so that its spread is unknown",
    Doubt.SPREAD: "the passes are far from each other",
    Doubt.LOADED: "other processes kept the machine busy",
    Doubt.COMPILED: "code was compiled in a pass",
    Doubt.WATCHED: "looking at every operation takes a part of it",
}


def doubts(timing: Timing) -> str:
    """Why the time of a call is not to be trusted; empty where nothing speaks against it."""
    return ", ".join(_DOUBTS[doubt] for doubt in timing.doubts)


def how_often(finding: Finding) -> str:
    """`1 per step`, `first step only`, `once per call`, ...; of what is compiled again, the compiles."""
    if finding.standing:
        return "in every call"
    if finding.kind.startswith("recompile"):
        return f"compiled again {'once' if finding.count == 1 else f'{finding.count:,} times'}"
    if finding.in_loop:
        if finding.first_step_only:
            return "first step only" + (f", {finding.count} times" if finding.count > 1 else "")
        if finding.per_step > 0:
            return f"{number(finding.per_step)} per step, {finding.count:,} per call"
        return f"{finding.count:,} per call, in some steps only"
    return "once per call" if finding.count == 1 else f"{finding.count:,} per call"


def spark(values: Sequence[float]) -> str:
    """One block a value, its height the value's share of the largest; an empty cell is a zero."""
    top = max(values, default=0.0)
    if top <= 0.0:
        return " " * len(values)
    return "".join(" " if v <= 0.0 else "▁▂▃▄▅▆▇█"[min(7, int(v / top * 7.999))] for v in values)


def phase(finding: Finding) -> str:
    if finding.kind.startswith("recompile"):
        return "compiling"
    return finding.phase or ("whole call" if finding.standing else "phase unknown")


def groups(report: Report) -> Iterator[tuple[str, str, Sequence[Finding]]]:
    """(key, title, findings) of those in the denoising loop and of the others; one group where a trace does
    not tell the loop. Empty groups are left out."""
    recording = report.recording
    outside = [finding for finding in report.findings if not finding.in_loop]
    found: tuple[tuple[str, str, Sequence[Finding]], ...] = (
        ("loop", "In the denoising loop: ", report.in_loop),
        ("outside", "Outside the denoising loop: ", outside),
    )
    if recording.target.kind == "trace" and recording.target.steps is None:
        found = (("findings", "", report.findings),)
    for key, title, findings in found:
        if findings:
            yield key, title + plural(len(findings), "finding"), findings


def cost(finding: Finding) -> str:
    """What it blocks (only of findings that rest on waits) and saves, with the grade; and what is spent once
    in a process."""
    once = ""
    if finding.once_ms is not None:
        once = f"once in a process: {duration(finding.once_ms)} ({Grade.MEASURED})"
    note = finding.cost_note
    if finding.blocked_ms is None and finding.saves_ms is None:
        if note and not once:
            return note[0].lower() + note[1:] if note[1:2].islower() else note
        text = once or NOT_MEASURED
        once = ""
    elif finding.blocked_ms is None and not finding.evidence.syncs:
        text = f"{saving(finding.saves_ms)} ({expectation(finding.grade)})"
    else:
        blocked = (
            "" if finding.blocked_ms is None else f"blocks the CPU {duration(finding.blocked_ms)} a call, "
        )
        text = f"{blocked}{saving(finding.saves_ms)} ({expectation(finding.grade)})"
    text = f"{text}; {once}" if once else text
    if not note:
        return text
    return f"{text}. {note}" if note[0].isupper() else f"{text}; {note}"


def saving(milliseconds_: float | None) -> str:
    """What a change shortens a call by, or makes it longer by; zero is no saving."""
    if milliseconds_ is None:
        return "saving not known"
    verb = "saves" if milliseconds_ > 0 else "costs"
    return f"{verb} about {duration(abs(milliseconds_))} a call" if milliseconds_ else "saves nothing"


def expectation(grade: Grade | None) -> str:
    """The grade of what a change would save: what nobody has tried is not measured, even where it follows
    from what was."""
    if grade is Grade.MEASURED:
        return "measured, saving modelled"
    return str(grade) if grade else "grade unknown"


def subject(recording: Recording) -> str:
    """What was scanned and where, in a line."""
    target, device = recording.target, recording.device
    if target.kind == "trace":
        of = f", {target.pipeline}" if target.pipeline else ""
        return clean(f"{target.spec}{of} ({device.name}, {device.grade})")
    mode = recording.timeline.mode if recording.timeline else "eager"
    parts = [target.pipeline, *_set_up(target), *([] if mode == "eager" else [mode])]
    set_up = ", ".join(dict.fromkeys(parts))
    words = [f"{target.spec} ({set_up})", f"on {device.spec} ({device.name}, {device.grade})"]
    if target.steps is not None and target.card_steps is not None:
        words.append(f"{target.steps} of the model card's {target.card_steps} steps (--steps)")
    elif target.steps is not None:
        words.append(plural(target.steps, "step"))
    if target.weights != "real":
        words.append(
            {"none": "no weights loaded", "random": "random weights"}.get(target.weights, target.weights)
        )
    return clean(", ".join([" ".join(words[:2]), *words[2:]]))


def _set_up(target: TargetInfo) -> Iterator[str]:
    """What else the figures hang on: schedulers, types of the denoisers, and the size that was asked for."""
    yield from (part.cls for part in target.components if part.role == "scheduler")
    yield from (part.dtype for part in target.components if part.role == "denoiser" and part.dtype)
    height, width = target.call.get("height"), target.call.get("width")
    if isinstance(height, int) and isinstance(width, int):
        yield f"{width} x {height}"


def versions(recording: Recording) -> str:
    """The versions that the evidence depends on."""
    environment = recording.environment
    packages = [f"{name} {version}" for name, version in sorted(environment.packages.items())]
    return ", ".join([f"diffprof {environment.diffprof}", f"Python {environment.python}", *packages])


def effort(recording: Recording) -> str:
    """What the scan itself took on this machine, in the order it was done; empty where that was not kept."""
    parts = [] if recording.ops is None else [plural(recording.ops, "device operation")]
    parts += [f"{name} {seconds(value)}" for name, value in recording.seconds.items()]
    return ", ".join(parts)


def age(created: str, now: datetime.datetime) -> str:
    """How long ago, in the largest whole unit."""
    try:
        then = datetime.datetime.fromisoformat(created)
    except ValueError:
        return created
    if then.tzinfo is None:
        then = then.replace(tzinfo=datetime.UTC)
    passed = (now - then).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if passed >= length:
            return f"{passed / length:.0f} {unit} ago"
    return f"{max(passed, 0):.0f} s ago"


def parameters(count: int) -> str:
    """2.57 B, 83.7 M, 900."""
    for unit, factor in (("B", 1e9), ("M", 1e6)):
        if count >= factor:
            return f"{number(count / factor)} {unit}"
    return f"{count:,}"
