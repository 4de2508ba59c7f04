"""A scan as it runs."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen

from diffprof.views.tui.job import Job
from diffprof.views.tui.job_panel import JobPanel
from diffprof.views.tui.key_bar import KeyBar


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
        yield KeyBar()

    def action_stop(self) -> None:
        self.job.stop()
