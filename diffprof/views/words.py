"""Figures and places in words, the same in every view. Unknown is said, never shown as zero."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from diffprof.model.finding import Finding
from diffprof.model.recording import Doubt, Grade, Recording, Site, Timing

if TYPE_CHECKING:
    from diffprof.model.report import Report

NOT_MEASURED = "not measured"


def number(value: float) -> str:
    """Three significant digits, without a tail of zeros: 0.0123, 1.5, 24, 1,234."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.0001 else f"{value:.1e}"


def share(value: float) -> str:
    """Of one, in percent: 83.5 %, under 0.1 %."""
    return "under 0.1 %" if 0 < value < 0.001 else f"{number(value * 100)} %"


def milliseconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{number(value)} ms"


def seconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{number(value)} s"


def duration(milliseconds_: float | None) -> str:
    """A time in the unit that reads best: 2.68 s, 154 ms."""
    if milliseconds_ is None:
        return NOT_MEASURED
    return seconds(milliseconds_ / 1e3) if milliseconds_ >= 1000 else milliseconds(milliseconds_)


_DOUBTS = {
    Doubt.ONE_PASS: "made once, so that its spread is unknown",
    Doubt.SPREAD: "the passes are far from each other",
    Doubt.LOADED: "other processes kept the machine busy",
    Doubt.COMPILED: "code was compiled in a pass",
}


def doubts(timing: Timing) -> str:
    """Why the time of a call is not to be trusted; empty where nothing speaks against it."""
    return ", ".join(_DOUBTS[doubt] for doubt in timing.doubts)


def size(value: float | None) -> str:
    """Bytes in binary units, as PyTorch and the drivers count memory."""
    if value is None:
        return NOT_MEASURED
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= factor:
            return f"{number(value / factor)} {unit}"
    return f"{number(value)} B"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plural(count: int, noun: str, many: str | None = None) -> str:
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


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


def place(site: Site | None) -> str:
    """`file:line`, the op alone where no line is known, or that there is no single place."""
    if not site:
        return "the whole call"
    return f"{site.file}:{site.line}" if site.line else site.file


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
    if finding.blocked_ms is None and finding.saves_ms is None:
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
    note = finding.cost_note
    if not note:
        return text
    return f"{text}. {note}" if note[0].isupper() else f"{text}; {note}"


def saving(milliseconds_: float | None) -> str:
    """What a change shortens a call by; zero is no saving."""
    if milliseconds_ is None:
        return "saving not known"
    return f"saves about {duration(milliseconds_)} a call" if milliseconds_ else "saves nothing"


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
        return f"{target.spec}{of} ({device.name}, {device.grade})"
    words = [f"{target.spec} ({target.pipeline})", f"on {device.spec} ({device.name}, {device.grade})"]
    if target.steps is not None:
        words.append(plural(target.steps, "step"))
    if target.weights != "real":
        words.append({"none": "no weights", "random": "random weights"}.get(target.weights, target.weights))
    return ", ".join([" ".join(words[:2]), *words[2:]])


def versions(recording: Recording) -> str:
    """The versions that the evidence depends on."""
    environment = recording.environment
    packages = [f"{name} {version}" for name, version in sorted(environment.packages.items())]
    return ", ".join([f"diffprof {environment.diffprof}", f"Python {environment.python}", *packages])


def effort(recording: Recording) -> str:
    """What the scan itself took on this machine, in the order it was done; empty where that was not kept."""
    parts = [] if recording.ops is None else [plural(recording.ops, "device operation")]
    parts += [f"{name} {seconds(value)}" for name, value in recording.seconds.items()]
    return f"This scan: {', '.join(parts)}" if parts else ""


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
