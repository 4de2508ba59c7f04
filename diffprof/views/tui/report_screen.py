"""One report in tabs: the one place that knows all its widgets, and who answers whose messages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import ContentSwitcher
from textual.worker import Worker, WorkerState, get_current_worker

from diffprof.judge.figures import call_ms
from diffprof.judge.plan import make_plan
from diffprof.model.analyzer import Listing
from diffprof.model.finding import Finding
from diffprof.model.fix import Plan
from diffprof.model.redacting import to_send
from diffprof.model.report import Report
from diffprof.views import render
from diffprof.views.sections import listings
from diffprof.views.tui.article import Article
from diffprof.views.tui.commands import Entry
from diffprof.views.tui.empty_state import EmptyState
from diffprof.views.tui.findings_pane import FindingsPane
from diffprof.views.tui.key_bar import KeyBar
from diffprof.views.tui.styles import Writing
from diffprof.views.tui.tab_strip import TabStrip
from diffprof.views.tui.verdict_bar import VerdictBar
from diffprof.views.verdict import folded, verdict

if TYPE_CHECKING:
    from diffprof.views.tui.timeline_pane import TimelinePane

FINDINGS, TIMELINE, PLAN = 1, 2, 6
"""Tabs that others lead to."""


class ReportScreen(Screen[None]):
    """A tab's content is imported and made when it is first opened."""

    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"tab({n})", show=False) for n in range(1, 10)),
        Binding("v", "verdict", "Verdict", show=False),
        Binding("e", "export", "Export"),
        Binding("right_square_bracket", "pipeline(1)", "Next pipeline", key_display="]"),
        Binding("left_square_bracket", "pipeline(-1)", "Previous pipeline", show=False),
    ]

    def __init__(self, whole: Report, traces: Path, own: Path | None = None, number: int = 0) -> None:
        """number: which of a script's pipelines is shown, counted from 0."""
        super().__init__()
        self.whole = whole
        self.number = number
        self.report = report = whole.alone[number]
        self.traces = traces
        self.own = own or traces
        self.call_ms = call_ms(report.recording)
        self.plan: Plan | None = None
        """None until it has been worked out."""
        self._no_plan = "Working out the plan of fixes…"
        self.tabs: dict[str, Callable[[], Widget]] = {
            "Findings": lambda: FindingsPane(report, self.call_ms),
            "Timeline": self._timeline,
            "Kernels": self._kernels,
            "Graphs": self._graphs,
            "Quantization": self._linears,
            "Plan": self._plan,
            "Facts": self._facts,
            "Runs": self._runs,
            **{listing.title: partial(self._listed, listing) for listing in _listings(report)},
        }

    def _timeline(self) -> Widget:
        timeline = self.report.recording.timeline
        if timeline is None or not timeline.host_us:
            return EmptyState("Timeline", "Scan on a simulated GPU or on CUDA with the analyzer kernels.")
        from diffprof.views.tui.timeline_pane import TimelinePane

        return TimelinePane(self.report, timeline)

    def _kernels(self) -> Widget:
        recording = self.report.recording
        if recording.kernels is None:
            return EmptyState(
                "Kernels", "Scan with `--analyzers kernels`, or import a trace of PyTorch's profiler."
            )
        from diffprof.views.tui.kernels_pane import KernelsPane

        return KernelsPane(recording, recording.kernels)

    def _graphs(self) -> Widget:
        recording = self.report.recording
        if recording.captures is None and recording.graph_breaks is None and recording.recompiles is None:
            return EmptyState("Graph breaks and recompiles", "Scan with `--analyzers graph-breaks`.")
        from diffprof.views.tui.graphs_pane import GraphsPane

        return GraphsPane(recording)

    def _linears(self) -> Widget:
        recording = self.report.recording
        if recording.linears is None:
            return EmptyState("Linears", "Scan with `--analyzers quantization`.")
        from diffprof.views.tui.quantization_pane import QuantizationPane

        return QuantizationPane(recording, recording.linears)

    def _listed(self, listing: Listing) -> Widget:
        from diffprof.views.tui.listed import listed_table

        return listed_table(listing, self.report.recording.section(listing.section))

    def _plan(self) -> Widget:
        if self.plan is None:
            page = Writing()
            page.flow(("muted", self._no_plan))
            return Article(page)
        from diffprof.views.tui.plan_pane import PlanPane

        return PlanPane(self.whole, self.plan, self.traces, self.own, self.number)

    def _facts(self) -> Widget:
        from diffprof.views.tui.facts_pane import FactsPane

        return FactsPane(self.report)

    def _runs(self) -> Widget:
        from diffprof.views.tui.runs_pane import RunsPane

        return RunsPane(self.traces, self.report.path)

    # --- the screen ----------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        top = self.report if self.number else self.whole
        yield VerdictBar(verdict(top), folded(top))
        recording = self.report.recording
        subject = f"{recording.target.spec} on {recording.device.spec}"
        if self.whole.pipelines:
            place = f"{self.number + 1}/{len(self.whole.each)}"
            subject = f"{place} {self.whole.names[self.number]}, {subject}"
        yield TabStrip(tuple(self.tabs), subject)
        yield ContentSwitcher()
        yield KeyBar()

    async def on_mount(self) -> None:
        await self.action_tab(FINDINGS)
        self.call_after_refresh(self.run_worker, self._think, thread=True, group="plan", exit_on_error=False)

    # --- the plan of fixes, which no tab waits for ----------------------------------------------------

    def _think(self) -> None:
        """In a thread: the timeline is replayed once for each fix."""
        plan = make_plan(self.report)
        if not get_current_worker().is_cancelled:
            self.app.call_from_thread(self._planned, plan)

    def _planned(self, plan: Plan) -> None:
        self.plan = plan
        if self.is_attached:
            self.query_one(FindingsPane).planned(plan)
            self.call_next(self._open_again, PLAN)

    async def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.worker.group == "plan" and event.state is WorkerState.ERROR:
            self._no_plan = f"The plan could not be made: {event.worker.error!r}"
            await self._open_again(PLAN)

    async def _open_again(self, number: int) -> None:
        """Make a tab anew, if it was opened."""
        switcher = self.query_one(ContentSwitcher)
        name = f"pane-{number}"
        for pane in switcher.query(f"#{name}"):
            shown = switcher.current == name
            if shown:
                switcher.current = None
            await pane.remove()
            if shown:
                await self.action_tab(number)

    # --- tabs ----------------------------------------------------------------------------------------

    async def action_tab(self, number: int) -> None:
        """Open a tab, counted from 1."""
        switcher = self.query_one(ContentSwitcher)
        name = f"pane-{number}"
        if not switcher.query(f"#{name}"):
            pane = list(self.tabs.values())[number - 1]()
            pane.id = name
            await switcher.add_content(pane, set_current=True)
        switcher.current = name
        self.query_one(TabStrip).show(number)
        self._focus(switcher.get_child_by_id(name))

    def _focus(self, pane: Widget) -> None:
        """The part of a tab that takes the keys."""
        if pane.can_focus:
            pane.focus()
            return
        for widget in pane.query("TableView, TimelineView, GraphTree"):
            widget.focus()
            return

    @on(TabStrip.Pressed)
    async def _tab(self, event: TabStrip.Pressed) -> None:
        await self.action_tab(event.number)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Going to another pipeline is offered where there is one."""
        return action != "pipeline" or bool(self.whole.pipelines)

    def action_pipeline(self, by: int) -> None:
        """Show the next or previous pipeline of the script."""
        number = (self.number + by) % len(self.whole.each)
        self.app.switch_screen(ReportScreen(self.whole, self.traces, self.own, number))

    def action_verdict(self) -> None:
        self.query_one(VerdictBar).toggle()

    def action_export(self) -> None:
        """Write the report as `diffprof show --format html` prints it, to the current folder."""
        file = Path(f"{Path(self.report.path).name if self.report.path else 'report'}.html")
        try:
            file.write_text(render(to_send(self.whole, "html"), "html"), encoding="utf-8")
        except OSError as error:
            self.notify(f"{file} can't be written: {error}", severity="error", markup=False)
        else:
            self.notify(f"Written: {file}", markup=False)

    # --- from one tab to another ---------------------------------------------------------------------

    @on(FindingsPane.WhatIf)
    async def _what_if(self, event: FindingsPane.WhatIf) -> None:
        if event.finding.saves_ms is None or self.report.recording.timeline is None:
            self.notify("What this finding costs was not measured.", severity="warning", timeout=3)
            return
        await self.action_tab(TIMELINE)
        pane: TimelinePane = self.query_one("TimelinePane")  # type: ignore[assignment]
        pane.leave_out(event.finding)

    # Of panes that are imported when they are opened, messages are known by name.

    async def on_timeline_pane_opened(self, event: TimelinePane.Opened) -> None:
        await self.open_finding(event.finding)

    async def open_finding(self, finding: Finding) -> None:
        """Show a finding, from wherever."""
        await self.action_tab(FINDINGS)
        self.query_one(FindingsPane).open(finding)

    def on_plan_pane_applied(self) -> None:
        for pane in self.query("RunsPane"):
            pane.action_reload()  # type: ignore[attr-defined]

    def palette(self) -> Iterator[Entry]:
        """What the command palette offers for this screen."""
        for number, title in enumerate(self.tabs, 1):
            yield title, f"Open the tab ({number})", partial(self.action_tab, number)
        for number, name in enumerate(self.whole.names if self.whole.pipelines else ()):
            yield (
                name,
                "Show this pipeline of the script (] and [)",
                partial(self.action_pipeline, number - self.number),
            )
        yield "Export", "Write the report as an HTML page here (e)", self.action_export
        yield "Verdict", "The three lines on top in full, or a line each (v)", self.action_verdict


def _listings(report: Report) -> Iterator[Listing]:
    """Of the analyzers that left something in this report."""
    return (each for each in listings() if report.recording.section(each.section) is not None)
