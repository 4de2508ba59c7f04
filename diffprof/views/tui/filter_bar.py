"""One row: text search, a chip for each filter, how many are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import Input

from diffprof.model.plain import clean, width
from diffprof.views.tui.piece_row import Piece, PieceRow
from diffprof.views.tui.styles import STYLES, styled


class Chips(PieceRow):
    """Filters, each shown as its value or else as its name with its key underlined; a click moves one to its
    next value. As wide as it can become, so that nothing moves when a value changes."""

    class Pressed(Message):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, keys: Mapping[str, str], choices: Mapping[str, Sequence[str]], total: int) -> None:
        """keys: filter -> its key, a letter of its name. choices: the values that it can have. total: of what
        is filtered."""
        super().__init__()
        self.keys = keys
        self.values = dict.fromkeys(keys, "")
        self.shown = self.total = total
        texts = [max((name, *map(clean, choices[name])), key=width) for name in keys]
        self.most_cells = sum(width(text) + 2 for text in texts) + len(f" {total:,} of {total:,}")
        self.styles.width = self.most_cells

    def show(self, values: Mapping[str, str], shown: int) -> None:
        """The filters' values (empty: not set), and how many match."""
        if (values, shown) != (self.values, self.shown):
            self.values, self.shown = dict(values), shown
            self.refresh()

    def pieces(self) -> list[Piece]:
        found = []
        for name, key in self.keys.items():
            found.append(Piece(_chip(name, key, self.values[name]), name))
            found.append(Piece(Content("  ")))
        count = f"{self.total:,}" if self.shown == self.total else f"{self.shown:,} of {self.total:,}"
        found.append(Piece(styled(("muted", f" {count}"))))
        spare = self.size.width - sum(piece.text.cell_length for piece in found)
        return [Piece(Content(" " * max(spare, 0))), *found]

    def chosen(self, choice: str) -> None:
        self.post_message(self.Pressed(choice))


def _chip(name: str, key: str, value: str) -> Content:
    if value:
        return Content.styled(clean(value), f"bold {STYLES['accent']}")
    before, letter, after = name.partition(key)
    muted = STYLES["muted"]
    return Content.assemble((before, muted), (letter, f"underline {muted}"), (after, muted))


class Search(Input):
    """The text to look for; Enter and the arrow down go to the list, Escape empties it first."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "To the list"),
        Binding("escape", "leave", "Clear"),
        Binding("down", "done", "To the list", show=False),
    ]

    class Left(Message):
        """Back to the list."""

    def __init__(self) -> None:
        super().__init__(placeholder="/ to search", compact=True, select_on_focus=False)

    def action_leave(self) -> None:
        self.value = ""
        self.post_message(self.Left())

    def action_done(self) -> None:
        self.post_message(self.Left())

    async def action_submit(self) -> None:
        self.post_message(self.Left())


class FilterBar(Horizontal):
    """Posts `Input.Changed` and `Chips.Pressed`; shows what it is told."""

    def __init__(self, keys: Mapping[str, str], choices: Mapping[str, Sequence[str]], total: int) -> None:
        """As for `Chips`."""
        super().__init__()
        self.chips = Chips(keys, choices, total)

    def compose(self) -> ComposeResult:
        yield Search()
        yield self.chips

    def search(self) -> None:
        self.query_one(Search).focus()
