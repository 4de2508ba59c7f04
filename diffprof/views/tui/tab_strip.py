"""The tabs, in one row: a number key or a click for each."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.message import Message

from diffprof.model.plain import clean, cut, pad
from diffprof.views.tui.piece_row import Piece, PieceRow
from diffprof.views.tui.styles import STYLES

_LEAST_ROOM = 20
"""Cells for the subject, below which it is left out."""
_OPEN = "bold $text-primary on $background"


class TabStrip(PieceRow):
    """Shows which tab is open; the number of the first is 1."""

    class Pressed(Message):
        """A tab is asked for."""

        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

    def __init__(self, titles: Sequence[str], subject: str = "") -> None:
        """subject: stands on the right where there is room."""
        super().__init__()
        self.titles = titles
        self.subject = clean(subject)
        self.number = 1

    def show(self, number: int) -> None:
        """Mark a tab as the open one."""
        self.number = number
        self.refresh()

    def pieces(self) -> list[Piece]:
        found = []
        for n, title in enumerate(self.titles, 1):
            text = Content.assemble(" ", (str(n), STYLES["muted"]), f" {title}")
            found.append(Piece(text.stylize_before(_OPEN) if n == self.number else text, n))
        room = self.size.width - sum(piece.text.cell_length for piece in found) - 1
        if room > _LEAST_ROOM:
            subject = pad(cut(self.subject, room - 1), room, right=True)
            found.append(Piece(Content.styled(subject, STYLES["muted"])))
        return found

    def chosen(self, choice: int) -> None:
        self.post_message(self.Pressed(choice))
