"""The three lines on top: what was found, why, what to do next."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal, VerticalScroll
from textual.events import Click
from textual.widgets import Static

from diffprof.verdict import Verdict
from diffprof.views.plain import clean
from diffprof.views.tui.ink import styled


class VerdictBar(VerticalScroll, can_focus=False):
    """One line each; a click or `v` shows them whole."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__()
        self.verdict = verdict

    def compose(self) -> ComposeResult:
        for label, text in (
            ("Verdict", self.verdict.headline),
            ("Why", self.verdict.why),
            ("Next", self.verdict.next),
        ):
            with Horizontal():
                yield Static(styled(("muted", label)), classes="label")
                yield Static(styled(("strong" if label == "Verdict" else "", clean(text))), classes="text")

    def toggle(self) -> None:
        """Whole, or a line each."""
        self.toggle_class("-whole")

    def on_click(self, event: Click) -> None:
        event.stop()
        self.toggle()
