"""Facts: what was scanned, where and how; time and memory of a call; what was not checked."""

from __future__ import annotations

from collections.abc import Iterator

from diffprof.judge.figures import call_ms, device_busy
from diffprof.model import units
from diffprof.model.recording import MemoryUse, Recording
from diffprof.model.report import Report
from diffprof.views import words
from diffprof.views.memory import curve, holder_row, peak_words
from diffprof.views.sections import not_checked
from diffprof.views.table import MOST_ROWS
from diffprof.views.times import phase_words
from diffprof.views.tui.article import Article
from diffprof.views.tui.styles import Writing, bar

_BAR = 30


class FactsPane(Article):
    """The tab of everything that is no finding."""

    def __init__(self, report: Report) -> None:
        super().__init__(facts_page(report))

    def on_mount(self) -> None:
        self.focus()


def facts_page(report: Report) -> Writing:
    recording = report.recording
    page = Writing()
    page.flow(("strong", words.subject(recording)))
    if recording.partial:
        page.flow(("bad", f"Partial: {recording.failure or 'the run ended early'}"))
    page.fact("when", recording.created)
    page.fact("stored in", report.path or "not stored")
    page.fact("versions", words.versions(recording))
    page.fact("this scan", words.effort(recording))
    page.fact("call", ", ".join(f"{key}={value}" for key, value in recording.target.call.items()))
    _time(page, recording)
    _memory(page, recording.memory)
    _gaps(page, recording)
    _components(page, recording)
    skipped = not_checked(report)
    page.heading(f"Not checked ({len(skipped):,})")
    if not skipped:
        page.flow("Every rule had its evidence, and no probe passed anything over.", indent=2)
    for what, why in skipped:
        page.flow(("strong", f"{what}: "), why, indent=2)
    return page


def _time(page: Writing, recording: Recording) -> None:
    page.heading("Length of the trace" if recording.target.kind == "trace" else "Time of one call")
    timing = recording.timing
    if timing is None:
        page.flow(("muted", units.NOT_MEASURED), indent=2)
        return
    length = call_ms(recording)
    spread = "" if timing.spread is None else f" ± {units.seconds(timing.spread)}"
    passes = f", {units.plural(len(timing.seconds), 'pass', 'passes')}" if timing.seconds else ""
    page.flow(
        ("strong", units.seconds(None if length is None else length / 1e3)),
        f"{spread}{passes}",
        ("muted", f" ({timing.mode}, {timing.grade})"),
        indent=2,
    )
    if timing.doubts:
        page.flow(("warn", "not to be trusted: "), words.doubts(timing), indent=2)
    for each in timing.phases:
        part = each.seconds / (timing.median or 1.0)
        took = f" {units.duration(each.seconds * 1e3)}  {phase_words(each)}"
        page.kept(("place", bar(part, _BAR)), took, indent=2)
    if (share := device_busy(recording)) is not None:
        busy = f" {units.number(share * 100)} %"
        page.kept("device busy ", ("good", bar(share, _BAR)), busy, indent=2)


def _memory(page: Writing, memory: MemoryUse | None) -> None:
    page.heading("Device memory")
    if memory is None:
        page.flow(("muted", units.NOT_MEASURED), indent=2)
        return
    most = memory.capacity_bytes or memory.peak_bytes or 0
    rows = [
        ("capacity", memory.capacity_bytes),
        ("peak", memory.peak_bytes),
        ("weights", memory.weights_bytes),
    ]
    rows += list(memory.by_phase.items())
    longest = max(len(name) for name, _ in rows)
    for name, size in rows:
        share = size / most if size is not None and most else 0.0
        page.kept(
            f"{name:<{longest}} {units.size(size):>12} ",
            ("muted" if name == "capacity" else "place", bar(share, _BAR)),
            indent=2,
        )
    if memory.by_step:
        first, last = memory.by_step[0], memory.by_step[-1]
        page.kept(
            f"after each step {words.spark(memory.by_step)}",
            ("muted", f"  {units.size(first)} → {units.size(last)}"),
            indent=2,
        )
    if memory.host_bytes:
        page.flow(f"the host keeps {units.size(memory.host_bytes)} of weights", indent=2)
    if memory.curve:
        page.kept(f"over the call {curve(memory)}", indent=2)
    page.flow(("muted", f"({memory.grade})"), indent=2)
    if memory.at_peak:
        page.heading("Memory at the peak")
        page.flow(f"{units.size(memory.peak_bytes)}, {peak_words(memory)}", indent=2)
    for each in (memory.at_peak or ())[:MOST_ROWS]:
        taken, what, module, phase, tensor, line = holder_row(each)
        rest = ", ".join(part for part in (module, phase, tensor, line) if part)
        page.flow(("strong", f"{taken:>9}  "), f"{what}  ", ("muted", rest), indent=2)


def _gaps(page: Writing, recording: Recording) -> None:
    page.heading("Device idle")
    if recording.gaps is None:
        page.flow(("muted", units.NOT_MEASURED), indent=2)
        return
    if not recording.gaps:
        page.flow("Never while the call ran.", indent=2)
        return
    causes = dict(_causes(recording))
    whole = sum(total for total, _ in causes.values())
    for cause, (total, count) in sorted(causes.items(), key=lambda item: -item[1][0]):
        page.kept(
            f"{cause:<8} {total / 1e3:>10,.3f} ms  {count:>7,} gaps  ",
            ("warn", bar(total / whole if whole else 0.0, _BAR)),
            indent=2,
        )
    grade = recording.timeline.grade if recording.timeline else recording.device.grade
    page.flow(("muted", f"per call ({grade})"), indent=2)


def _causes(recording: Recording) -> Iterator[tuple[str, tuple[float, int]]]:
    gaps = recording.gaps or ()
    for cause in dict.fromkeys(gap.cause for gap in gaps):
        own = [gap for gap in gaps if gap.cause == cause]
        yield cause, (sum(gap.duration_us for gap in own), sum(gap.count for gap in own))


def _components(page: Writing, recording: Recording) -> None:
    if not recording.target.components:
        return
    page.heading("Components")
    for each in recording.target.components:
        size = "" if each.parameters is None else f", {words.parameters(each.parameters)} parameters"
        notes = [each.dtype or "", "compiled" if each.compiled else ""]
        page.flow(
            ("strong", f"{each.name} "),
            f"{each.cls}{size}",
            ("muted", "".join(f", {note}" for note in notes if note)),
            indent=2,
        )
