"""A scan as it runs."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Footer

from diffprof.views.tui.job import Job
from diffprof.views.tui.job_panel import JobPanel


class LiveScreen(Screen[None]):
    """Shows a job until it is over; `q` and Ctrl-C stop it, and what it has is kept."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c,ctrl+q", "stop", "Stop, keep what was recorded", key_display="q", priority=True),
    ]

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.job = job

    def compose(self) -> ComposeResult:
        yield JobPanel(self.job)
        yield Footer(compact=True, show_command_palette=False)

    def action_stop(self) -> None:
        self.job.stop()
