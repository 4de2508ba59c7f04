"""The timeline: tracks, and what happens under the cursor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.widgets import Static

from diffprof.judge.figures import call_ms, device_busy
from diffprof.judge.pricing import removal
from diffprof.judge.steps import phase_of_events
from diffprof.model.finding import Finding
from diffprof.model.recording import Timeline
from diffprof.model.report import Report
from diffprof.model.units import milliseconds, number, place, plural
from diffprof.views.tui.article import Article
from diffprof.views.tui.styles import Writing, styled
from diffprof.views.tui.timeline_tracks import tracks_of
from diffprof.views.tui.timeline_view import TimelineView

_MOST_WAITS = 3


def _extent(finding: Finding) -> int:
    return len(finding.evidence.syncs) + len(finding.evidence.events)


class TimelinePane(Container):
    """The tab of the timeline of a recording that has one."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("w", "as_recorded", "As recorded")]

    class Opened(Message):
        """A wait's finding is asked for."""

        def __init__(self, finding: Finding) -> None:
            super().__init__()
            self.finding = finding

    def __init__(self, report: Report, timeline: Timeline) -> None:
        super().__init__()
        self.report = report
        self.timeline = timeline
        self.recorded = tracks_of(timeline)
        self.without: Finding | None = None
        self._phases = phase_of_events(timeline)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Only what was left out can be brought back."""
        return action != "as_recorded" or self.without is not None

    def compose(self) -> ComposeResult:
        yield Static(id="timeline-title", markup=False)
        yield TimelineView(self.recorded)
        yield Article()

    def on_mount(self) -> None:
        self._title()
        self.query_one(TimelineView).focus()

    def leave_out(self, finding: Finding | None) -> None:
        """Show the call as it would run without a finding; None: as recorded."""
        self.without = finding
        self.refresh_bindings()
        tracks = self.recorded
        if finding is not None:
            tracks = tracks_of(self.timeline, removal(finding.evidence, self.report.recording))
        self._title(tracks.total_us)
        self.query_one(TimelineView).show(tracks)

    def action_as_recorded(self) -> None:
        self.leave_out(None)

    def _title(self, after_us: float = 0.0) -> None:
        run = self.recorded.run
        recording = self.report.recording
        length = call_ms(recording) or run.total_us / 1e3
        what = "the trace" if recording.target.kind == "trace" else "one call"
        text = f"{what}, {milliseconds(length)} ({self.timeline.grade}, {self.timeline.mode})"
        if self.without is None:
            share = number((device_busy(recording) or 0.0) * 100)
            shown = styled(text, ("muted", f"; device busy {share} %"))
        else:
            where = f" at {place(self.without.site)}" if self.without.site else ""
            saved = (run.total_us - after_us) / 1e3
            shown = styled(
                text,
                ("good", f" → {milliseconds(length - saved)} without {self.without.rule}"),
                ("muted", f"{where}, {milliseconds(saved)} less"),
            )
        self.query_one("#timeline-title", Static).update(shown)

    # --- under the cursor ----------------------------------------------------------------------------

    @on(TimelineView.Pointed)
    def _pointed(self, event: TimelineView.Pointed) -> None:
        event.stop()
        if isinstance(event, TimelineView.Chosen):
            for finding in self._findings(event.start_us, event.end_us):
                self.post_message(self.Opened(finding))
                return
            self.notify("No finding here: n goes to the next wait.", timeout=3)
            return
        self.query_one(Article).show(self._page(event.start_us, event.end_us))

    def _findings(self, start: float, end: float) -> Iterator[Finding]:
        """What rests on a wait or kernel here, the finding that rests on the fewest first."""
        tracks = self.query_one(TimelineView).tracks
        rows = {mark.row for mark in tracks.marks_in(start, end)}
        events = {mark.event for mark in tracks.marks_in(start, end)} | set(tracks.device_events(start, end))
        for finding in sorted(self.report.findings, key=_extent):
            if rows & set(finding.evidence.syncs) or events & set(finding.evidence.events):
                yield finding

    def _page(self, start: float, end: float) -> Writing:
        page = Writing()
        view = self.query_one(TimelineView)
        tracks = view.tracks
        middle = (start + end) / 2
        page.flow(
            ("strong", f"{start / 1e3:,.3f} ms"),
            (
                "muted",
                f"  {number(end - start)} us a column, {milliseconds(view.window.length_us / 1e3)} shown",
            ),
        )
        rows = self.report.recording.syncs or ()
        marks = tracks.marks_in(start, end)
        for mark in marks[:_MOST_WAITS]:
            blocked = milliseconds((mark.end_us - mark.start_us) / 1e3)
            if 0 <= mark.row < len(rows):
                row = rows[mark.row]
                where = place(row.site).rsplit("/", 1)[-1]
                page.fact("sync", ("bad", row.kind), " ", ("place", where), f" blocks {blocked}")
            else:
                page.fact("sync", f"blocks {blocked}")
        if len(marks) > _MOST_WAITS:
            page.fact("", ("muted", f"and {plural(len(marks) - _MOST_WAITS, 'more sync')}"))
        host, device = tracks.host_event(middle), tracks.device_event(middle)
        page.fact("host", self._event(host) if host is not None else "idle: done, or not begun")
        if device is None:
            page.fact("gpu", "idle")
        else:
            length = tracks.run.device_end[device] - tracks.run.device_start[device]
            page.fact("gpu", f"{self._event(device)}, {number(length)} us")
        started = tracks.device_events(start, end)
        if len(started) > 1:
            kinds = Counter(self._kernel(event) for event in started)
            names = ", ".join(f"{n:,} {name}" for name, n in kinds.most_common(4))
            page.fact("started", f"{plural(len(started), 'kernel')}: {names}")
        return page

    def _kernel(self, event: int) -> str:
        kind = self.timeline.kind[event]
        return self.timeline.kinds[kind].name if kind >= 0 else "Python"

    def _event(self, event: int) -> str:
        module = self.timeline.module[event]
        span = self._phases[event]
        where = [self.timeline.modules[module]] if 0 <= module < len(self.timeline.modules) else []
        if span is not None:
            where.append(span.name if span.step is None else f"step {span.step + 1}")
        return ", ".join([self._kernel(event), *where])
