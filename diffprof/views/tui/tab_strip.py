"""The tabs, in one row: a number key or a click for each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import Static

from diffprof.views.plain import clean, cut, pad
from diffprof.views.tui.ink import STYLES

_LEAST_ROOM = 20
"""Cells for the subject, below which it is left out."""
_OPEN = "bold $text-primary on $background"


class TabStrip(Static):
    """Shows which tab is open; the number of the first is 1."""

    class Pressed(Message):
        """A tab is asked for."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, titles: Sequence[str], subject: str = "") -> None:
        """subject: stands on the right where there is room."""
        super().__init__(markup=False)
        self.titles = titles
        self.subject = clean(subject)
        self.number = 1
        self.show(1)

    def on_resize(self) -> None:
        self.show(self.number)

    def show(self, number: int) -> None:
        """Mark a tab as the open one."""
        self.number = number
        parts = []
        for n, title in enumerate(self.titles, 1):
            own = _OPEN if n == number else ""
            parts.append(Content.assemble(" ", (str(n), STYLES["muted"]), f" {title}").stylize_before(own))
        room = self.size.width - self.edges[-1] - 1
        if room > _LEAST_ROOM:
            parts.append(Content.styled(pad(cut(self.subject, room), room, right=True), STYLES["muted"]))
        self.update(Content.assemble(*parts))

    @property
    def edges(self) -> list[int]:
        """Where each tab ends, in cells."""
        return list(accumulate(len(f" {n} {title}") for n, title in enumerate(self.titles, 1)))

    def on_click(self, event: Click) -> None:
        event.stop()
        number = next((n for n, edge in enumerate(self.edges, 1) if event.x < edge), None)
        if number is not None:
            self.post_message(self.Pressed(number))
