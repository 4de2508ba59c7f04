"""The three lines on top of every report: what was found, why, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from diffprof.judge.figures import device_busy
from diffprof.judge.pricing import HIDDEN_SHARE, waits_together
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import INTERRUPTED, CaptureRow, Recording, SyncRow, steady_per_step
from diffprof.model.report import Report
from diffprof.views.words import cost, how_often, milliseconds, number, place, plural

NOTICEABLE_MS = 0.1
"""Per call: below it, where a finding is matters more than what it saves."""


class Verdict(msgspec.Struct, frozen=True):
    """One sentence each."""

    headline: str
    why: str
    next: str


def verdict(report: Report) -> Verdict:
    """The three lines for a report of any completeness."""
    recording = report.recording
    headline = _headline(report)
    if recording.partial:
        headline = f"Partial recording. {headline}"
    return Verdict(headline, _why(report), _next(report))


def _headline(report: Report) -> str:
    recording = report.recording
    syncs = recording.syncs
    from_syncs = 0
    parts = []
    busy = device_busy(recording)
    if recording.target.kind == "trace" and busy is not None:
        parts.append(f"The {_device(recording)} works for {number(busy * 100)} % of the trace.")
    if syncs is not None:
        parts.append(_waits(recording, syncs))
        from_syncs = sum(1 for f in report.findings if f.evidence.syncs)
    others = len(report.findings) - from_syncs
    if others:
        parts.append(
            f"{plural(others, 'other finding') if syncs is not None else plural(others, 'finding')}."
        )
    if syncs is None and recording.captures:
        parts.append(_graphs(recording.captures))
    if not parts:
        parts.append(
            "Nothing was recorded that a rule could judge."
            if report.unchecked
            else "Every rule was checked and nothing was found."
        )
    return " ".join(parts)


def _graphs(captures: Sequence[CaptureRow]) -> str:
    """What becomes of the parts that a user would compile."""
    whole = [row.component for row in captures if row.fullgraph_ready]
    if len(whole) == len(captures):
        return f"Fullgraph-ready: {', '.join(whole)}."
    broken = ", ".join(row.component for row in captures if not row.fullgraph_ready)
    rest = f"; fullgraph-ready: {', '.join(whole)}" if whole else ""
    return f"Not one graph: {broken}{rest}."


def _waits(recording: Recording, syncs: Sequence[SyncRow]) -> str:
    looped = [row for row in syncs if row.in_loop]
    outside = sum(row.count for row in syncs if not row.in_loop)
    count = sum(row.count for row in looped)
    if not count:
        if not outside and recording.partial:
            ran = "No operation ran" if recording.ops == 0 else "No operation made the CPU wait for the GPU"
            return f"{ran} until it ended."
        if not outside:
            return "No operation makes the CPU wait for the GPU."
        if recording.target.kind == "trace" and recording.target.steps is None:
            return f"The CPU waits for the {_device(recording)} {_times(outside)}{_in_all(syncs)}."
        return f"The denoising loop never makes the CPU wait for the GPU; the rest does {_times(outside)}."
    sites = plural(len({(row.site.file, row.site.line) for row in looped}), "line")
    rate = steady_per_step(looped)
    often = f"{_times(rate)} per denoising step" if rate else f"{_times(count)} in the denoising loop"
    return f"The CPU waits for the GPU {often}, at {sites}, and {_times(outside)} outside the loop."


def _device(recording: Recording) -> str:
    """What the device is called: accelerators of other makers are no GPUs."""
    return "GPU" if recording.device.kind in ("cuda", "sim", "cpu", "xpu") else "device"


def _in_all(syncs: Sequence[SyncRow]) -> str:
    """How long, where a clock saw all of it."""
    times = [row.blocked_us for row in syncs]
    seen = [us for us in times if us is not None]
    return f", {milliseconds(sum(seen) / 1e3)} in all" if seen and len(seen) == len(times) else ""


def _times(count: float) -> str:
    words = {0.0: "never", 1.0: "once", 2.0: "twice"}
    return words.get(count) or f"{number(count)} times"


def _why(report: Report) -> str:
    failure = report.recording.failure
    if report.recording.partial and failure == INTERRUPTED:
        work = "Reading the trace" if report.recording.target.kind == "trace" else "The scan"
        return f"{work} was stopped before its end."
    if report.recording.partial and failure and report.recording.target.kind == "trace":
        return failure
    if report.recording.partial and failure:
        return f"The run ended early: {failure.strip().splitlines()[0] if failure.strip() else failure}"
    first = _first(report)
    if first is None:
        if report.unchecked:
            if report.recording.target.kind == "trace" and report.recording.unseen:
                lacks = report.recording.unseen[0]
                return f"Not in the trace: {lacks.what}; {lacks.why}."
            looked = report.recording.captures is not None or report.recording.syncs is not None
            found = "Nothing was found in what was looked at; " if looked else ""
            lacking = plural(len(report.unchecked), "rule")
            return f"{found}{lacking} had no evidence: {report.unchecked[0].why}."
        return "No rule found anything in what was recorded."
    if first.site is None:
        words = f"{first.rule} {first.name}: {first.message.strip().removesuffix('.')}"
    else:
        words = f"{first.rule} {first.name} at {place(first.site)}, {how_often(first)}"
    together = () if _is_of_all_waits(first, report.recording) else _together(report.recording)
    return " ".join([f"{words}; {cost(first).removesuffix('.')}.", *together])


def _is_of_all_waits(finding: Finding, recording: Recording) -> bool:
    """Whether its cost is the cost of all waits of the loop."""
    looped = {n for n, row in enumerate(recording.syncs or ()) if row.in_loop}
    return looped <= set(finding.evidence.syncs)


def _together(recording: Recording) -> Iterator[str]:
    """What the loop's waits cost together, which is what one wants to know of waits that hide each other."""
    costs = waits_together(recording)
    if costs is None or recording.timeline is None:
        return
    blocked = f"The waits of the loop block the CPU for {milliseconds(costs.blocked_ms)} in all"
    shorter = f"{milliseconds(costs.saves_ms)} shorter, of {milliseconds(costs.total_ms)}"
    grade = recording.timeline.grade
    if costs.saves_ms < costs.blocked_ms * HIDDEN_SHARE:
        yield (
            f"{blocked}, but the GPU still has work queued then: without them the call is only {shorter} "
            f"({grade})."
        )
    else:
        yield f"{blocked}; without them the call is {shorter} ({grade})."


def _next(report: Report) -> str:
    if report.recording.partial and report.recording.failure == INTERRUPTED:
        if report.recording.target.kind == "trace":
            return "Import it again for the whole; what was read until then is below."
        return "Scan again for the whole; what was recorded until then is below."
    if report.recording.partial and report.recording.target.kind == "trace":
        return "Export or copy the trace again; what could be read of it is below."
    if report.recording.partial:
        return "Mend what ended the run and scan again; what was recorded until then is below."
    first = _first(report)
    if first is None:
        if report.unchecked:
            return 'See "Not checked" for what each rule lacks.'
        return "Nothing to do."
    advice = first.advice.strip()
    explain = f"`diffprof explain {first.rule}` has the whole story."
    return f"{advice} {explain}" if advice else explain


def _first(report: Report) -> Finding | None:
    """The finding on top, unless another saves noticeably more, in the loop or not. Hints that are no defects
    (other models, fewer steps) don't compete."""
    if not report.findings:
        return None
    first = report.findings[0]
    defects = [finding for finding in report.findings if finding.severity is not Severity.INFO]
    best = max(defects, key=lambda finding: finding.saves_ms or 0.0, default=first)
    return best if (best.saves_ms or 0.0) > (first.saves_ms or 0.0) + NOTICEABLE_MS else first
