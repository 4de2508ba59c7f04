"""One line of pieces, some of which a click chooses.

Drawn as a line: a widget for each piece would be mounted, styled and laid out whenever one changes, which
takes longer than drawing everything else on the screen (Textual's Footer and Tabs: three times as long,
tests/benchmarks/bench_widgets.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from textual.content import Content
from textual.events import Click, MouseMove
from textual.widget import Widget


@dataclass(frozen=True)
class Piece:
    """Text of the line. choice: what a click on it chooses; None: nothing."""

    text: Content
    choice: object = None


class PieceRow(Widget):
    """Draws `pieces()`, calls `chosen` when one is clicked; the one under the mouse stands out."""

    ALLOW_SELECT = False

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._under: int | None = None

    @abstractmethod
    def pieces(self) -> Sequence[Piece]:
        """What stands in the row, from the left."""

    @abstractmethod
    def chosen(self, choice: Any) -> None:
        """A piece with this choice was clicked."""

    def render(self) -> Content:
        under = self._under
        return Content("").join(
            piece.text.stylize("on $block-hover-background") if number == under else piece.text
            for number, piece in enumerate(self.pieces())
        )

    def _piece_at(self, x: int) -> tuple[int | None, object]:
        """The number and the choice of the piece in a column; nothing where none can be chosen."""
        pieces = self.pieces()
        ends = accumulate(piece.text.cell_length for piece in pieces)
        number = next((number for number, end in enumerate(ends) if x < end), None)
        if number is None or pieces[number].choice is None:
            return None, None
        return number, pieces[number].choice

    def on_click(self, event: Click) -> None:
        event.stop()
        at = event.get_content_offset(self)
        _, choice = (None, None) if at is None else self._piece_at(at.x)
        if choice is not None:
            self.chosen(choice)

    def on_mouse_move(self, event: MouseMove) -> None:
        at = event.get_content_offset(self)
        self._point(None if at is None else self._piece_at(at.x)[0])

    def on_leave(self) -> None:
        self._point(None)

    def _point(self, number: int | None) -> None:
        if number != self._under:
            self._under = number
            self.refresh()
