"""The keys of the part of the screen that has the focus; a click does what the key does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from textual.app import App
from textual.content import Content
from textual.widgets import Input

from diffprof.views.tui.piece_row import Piece, PieceRow

if TYPE_CHECKING:
    from textual.binding import ActiveBinding
    from textual.screen import Screen


@dataclass(frozen=True)
class KeyHint:
    """One key of the row. shown: how it is written; text: what it does, empty where the name after the last
    key of its group says that; everywhere: it is the application's, the same on every screen."""

    key: str
    shown: str
    text: str = ""
    everywhere: bool = False
    ends: bool = True
    """The last of its group."""

    def piece(self) -> Piece:
        text = f" {self.text}" if self.text else ""
        return Piece(Content.assemble((self.shown, "bold $footer-key-foreground"), text), self.key)


_MORE = KeyHint("question_mark", "…")
"""Stands for keys without room; opens the page of all keys."""


def keys_of(app: App, bindings: Iterable[ActiveBinding]) -> tuple[KeyHint, ...]:
    """The bindings that are to be shown, an action once; those of a group stand together before its name."""
    once: dict[str, ActiveBinding] = {}
    for each in bindings:
        if each.binding.show and each.enabled:
            once.setdefault(each.binding.action, each)
    found = []
    for group, members in groupby(once.values(), lambda each: each.binding.group):
        own = list(members)
        for each in own:
            ends = group is None or each is own[-1]
            text = each.binding.description if group is None else group.description if ends else ""
            shown = app.get_key_display(each.binding)
            found.append(KeyHint(each.binding.key, shown, text, isinstance(each.node, App), ends))
    return tuple(found)


def row_of(keys: tuple[KeyHint, ...], columns: int) -> tuple[Piece, ...]:
    """The keys with two cells between them, or one where there is little room. What does not fit even so is
    left out, but for the keys of everywhere."""
    for gap in (2, 1):
        row = _spaced(keys, gap)
        if _length(row) <= columns:
            return row
    own = [key for key in keys if not key.everywhere]
    rest = [key for key in keys if key.everywhere]
    while own and _length(row) > columns:
        own.pop()
        while own and not own[-1].ends:  # keys of a group whose name went
            own.pop()
        row = _spaced((*own, _MORE, *rest), 1)
    return row


def _spaced(keys: Iterable[KeyHint], gap: int) -> tuple[Piece, ...]:
    found = []
    for key in keys:
        found.append(key.piece())
        if key.ends:
            found.append(Piece(Content(" " * gap)))
    return tuple(found[:-1])


def _length(row: Iterable[Piece]) -> int:
    return sum(piece.text.cell_length for piece in row)


class KeyBar(PieceRow):
    """Stands at the bottom of a screen and follows its focus."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: tuple[KeyHint, ...] = ()

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, self._changed)
        # The signal comes after the screen was drawn; this comes before, so that one drawing has both.
        self.watch(self.screen, "focused", lambda: self._changed(self.screen), init=False)

    def _changed(self, screen: Screen) -> None:
        keys = keys_of(self.app, screen.active_bindings.values())
        if isinstance(screen.focused, Input):
            keys = tuple(key for key in keys if len(key.shown) > 1 or not key.shown.isascii())  # typed
        if keys != self.keys:
            self.keys = keys
            self.refresh()

    def pieces(self) -> tuple[Piece, ...]:
        return row_of(self.keys, self.size.width)

    def chosen(self, choice: str) -> None:
        self.app.simulate_key(choice)
