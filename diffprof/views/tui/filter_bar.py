"""One row: text search, a chip for each filter, how many are shown."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.events import Click
from textual.message import Message
from textual.widgets import Input, Static

from diffprof.views.tui.ink import styled


class Chip(Static):
    """A filter that a click moves to its next value."""

    class Pressed(Message):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, name: str, *, key: str) -> None:
        super().__init__(markup=False, id=f"chip-{name}")
        self.filter_name = name
        self.key = key
        self.set_value("")

    def set_value(self, value: str) -> None:
        """Show a value, or (empty) the filter's name with its key underlined."""
        self.set_class(bool(value), "-set")
        if value:
            self.update(styled(value))
        else:
            before, key, after = self.filter_name.partition(self.key)
            self.update(Content.assemble(before, (key, "underline"), after))

    def on_click(self, event: Click) -> None:
        event.stop()
        self.post_message(self.Pressed(self.filter_name))


class Search(Input):
    """The text to look for; Enter and the arrow down go to the list, Escape empties it first."""

    BINDINGS: ClassVar[list[BindingType]] = [
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
    """Posts `Input.Changed` and `Chip.Pressed`; shows what it is told."""

    def __init__(self, chips: dict[str, str]) -> None:
        """chips: filter -> its key, a letter of its name."""
        super().__init__()
        self.chips = chips

    def compose(self) -> ComposeResult:
        yield Search()
        for name, key in self.chips.items():
            yield Chip(name, key=key)
        yield Static(id="shown", markup=False)

    def set_chip(self, name: str, value: str) -> None:
        self.query_one(f"#chip-{name}", Chip).set_value(value)

    def set_count(self, shown: int, total: int) -> None:
        text = f"{total:,}" if shown == total else f"{shown:,} of {total:,}"
        self.query_one("#shown", Static).update(styled(("muted", text)))

    def search(self) -> None:
        self.query_one(Search).focus()
