"""The viewer: which screen is shown, themes, keys of everywhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from diffprof.judge.judging import load_judged
from diffprof.model.errors import DiffprofError
from diffprof.model.report import Report, from_json
from diffprof.views.tui.commands import ViewerCommands
from diffprof.views.tui.help_screen import HelpScreen
from diffprof.views.tui.job import Ended, Job
from diffprof.views.tui.job_panel import JobPanel
from diffprof.views.tui.live_screen import LiveScreen
from diffprof.views.tui.report_screen import ReportScreen
from diffprof.views.tui.themes import DARK, LIGHT, THEMES, chosen_theme, keep_theme

if TYPE_CHECKING:
    from diffprof.model.sweep import SweepRow
    from diffprof.views.tui.runs_pane import RunsPane


_MOMENT = 0.5
"""Seconds in which a report's first screen is written."""
_LOOK = 1.0
"""Seconds between looks at whether the terminal is still there."""


class Viewer(App[Ended]):
    """Shows a report; or a job first, and then the report that it prints.

    Its result is how the job ended, None without one.
    """

    CSS_PATH = "viewer.tcss"
    TITLE = "diffprof"
    COMMANDS = App.COMMANDS | {ViewerCommands}
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (150, "-wide")]  # noqa: RUF012 (declared in App)
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "toggle_theme", "Theme", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(
        self,
        report: Report | None,
        traces: Path,
        *,
        own: Path | None = None,
        job: Job | None = None,
        sweep: Sequence[SweepRow] | None = None,
        settings: Path | None = None,
        settled: Callable[[], object] | None = None,
    ) -> None:
        """own: the folder of the user's own runs, `traces` unless told. sweep: rows, in the place of a report
        and a job. settings: the file that keeps the
        choice of theme; None: it is not kept. settled: called once, when the first report has been on the
        screen for a moment."""
        super().__init__()
        self.report = report
        self.traces = traces
        self.own = own or traces
        self.job = job
        self.sweep = sweep
        self.settings = settings
        self.settled = settled
        self.ended: Ended | None = None
        self._leaving = False
        # Set before the first style sheet is read: changing it later costs a second reading.
        for theme in THEMES:
            self.register_theme(theme)
        chosen = chosen_theme(settings) if settings else None
        self.theme = chosen if chosen in self.available_themes else DARK

    def on_mount(self) -> None:
        self.theme_changed_signal.subscribe(self, lambda theme: self._keep(theme.name))
        if not self.is_headless:
            self.set_interval(_LOOK, self._leave_without_terminal)
        if self.report is not None:
            self.push_screen(ReportScreen(self.report, self.traces, self.own))
            self._settle()
        elif self.job is not None:
            self.push_screen(LiveScreen(self.job))
        elif self.sweep is not None:
            from diffprof.views.tui.sweep_screen import SweepScreen

            self.push_screen(SweepScreen(self.sweep))

    def _keep(self, theme: str) -> None:
        if self.settings:
            keep_theme(self.settings, theme)

    def action_toggle_theme(self) -> None:
        """From dark to light and back."""
        self.theme = LIGHT if self.current_theme.dark else DARK

    def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            self.push_screen(HelpScreen())

    async def action_quit(self) -> None:
        """Leave; while fixes are being applied, only when asked twice."""
        if self.screen.query("PlanPane JobPanel") and not self._leaving:
            self._leaving = True
            self.notify("Fixes are being applied: Esc stops them, q again leaves at once.", timeout=4)
            return
        self.exit(self.ended)

    def _leave_without_terminal(self) -> None:
        """Where the terminal is gone and no signal said so, its input is at an end over and over: Textual
        would read it for ever. What runs is stopped first, and stores what it has."""
        if sys.__stdin__ is not None and os.isatty(sys.__stdin__.fileno()):
            return
        running = [panel.job for panel in self.screen.query(JobPanel)]
        for job in running:
            if not job.stopping:
                job.stop()
        if not running:
            self.exit(self.ended)

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        yield SystemCommand("Theme", "Change the colours", self.action_change_theme)
        yield SystemCommand("Keys", "Every key, by place (?)", self.action_help)
        yield SystemCommand("Screenshot", "Save the screen as an SVG file", self.deliver_screenshot)
        yield SystemCommand("Quit", "Leave the viewer (q)", self.action_quit)

    # --- reports -------------------------------------------------------------------------------------

    def on_runs_pane_opened(self, event: RunsPane.Opened) -> None:
        self.run_worker(lambda: self._load(event.folder), thread=True, exclusive=True, group="load")

    def _load(self, folder: Path) -> None:
        try:
            report = load_judged(folder)
        except DiffprofError as error:
            self.call_from_thread(
                self.notify, f"{error.what}\n{error.hint}", severity="error", markup=False, timeout=8
            )
            return
        self.call_from_thread(self._show, report)

    def _show(self, report: Report) -> None:
        self.report = report
        self.switch_screen(ReportScreen(report, self.traces, self.own))
        self._settle()

    def _settle(self) -> None:
        if self.settled is not None:
            self.set_timer(_MOMENT, self.settled)
            self.settled = None

    @on(JobPanel.Over)
    def _over(self, event: JobPanel.Over) -> None:
        """The scan has ended: show what it recorded, if anything; else leave, the caller says why."""
        self.ended = event.ended
        try:
            report = from_json(event.ended.output, origin="the scan's report")
        except DiffprofError:
            self.exit(event.ended)
            return
        self._show(report)
        if report.recording.partial:
            self.notify("The run ended early; what was recorded until then is shown.", severity="warning")
