"""The tabs, in one row: a number key or a click for each."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from diffprof.views.tui.ink import STYLES


class Tab(Static):
    """One name with its key."""

    class Pressed(Message):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, number: int, title: str) -> None:
        super().__init__(
            Content.assemble((str(number), STYLES["muted"]), " ", title), markup=False, id=f"tab-{number}"
        )
        self.number = number

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(self.Pressed(self.number))


class TabStrip(Horizontal):
    """Shows which tab is open; the number of the first is 1."""

    def __init__(self, titles: Sequence[str]) -> None:
        super().__init__()
        self.titles = titles

    def compose(self) -> ComposeResult:
        for number, title in enumerate(self.titles, 1):
            yield Tab(number, title)

    def show(self, number: int) -> None:
        for tab in self.query(Tab):
            tab.set_class(tab.number == number, "-open")
