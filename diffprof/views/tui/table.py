"""A table of any length: only the rows on the screen are drawn. Sorts; knows nothing of what it shows.

Textual's DataTable makes a cell of every row first: filling and filtering 5,000 rows takes it tens of times
as long (tests/benchmarks/bench_widgets.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from diffprof.model.plain import clean, cut, pad, width
from diffprof.views.tui.line_view import LineView
from diffprof.views.tui.styles import Span, line_style

T = TypeVar("T")
Cell = str | list[Span]
"""Text, or spans of it; the table cleans and cuts them."""


@dataclass(frozen=True)
class TableColumn(Generic[T]):
    """One column. cells: its width, or the least one of a column that grows.

    value: what it is sorted by; None: it is not. drop: on a narrow screen, columns with the highest number
    go first; 0 stays.
    """

    title: str
    cell: Callable[[T], Cell]
    cells: int
    grow: bool = False
    right: bool = False
    value: Callable[[T], Any] | None = None
    drop: int = 0
    end: Callable[[T], bool] | None = None
    """Whether, where a row's text does not fit, its end is shown."""


class TableView(LineView, Generic[T], can_focus=True):
    """Rows of any kind under a header, one of them current."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"table--header", "table--cursor", "table--row"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("home", "first", "First", show=False),
        Binding("end", "last", "Last", show=False),
        Binding("enter", "choose", "Open", show=False),
        Binding("s", "sort", "Sort"),
        Binding("S", "reverse", "Reverse", show=False),
    ]

    class Moved(Message):
        """Another row is current; row: None when there is none."""

        def __init__(self, table: TableView, row: Any) -> None:
            super().__init__()
            self.table = table
            self.row = row

        @property
        def control(self) -> TableView:
            return self.table

    class Chosen(Moved):
        """A row was opened: Enter, or a second click."""

    def __init__(
        self,
        columns: Sequence[TableColumn[T]],
        rows: Sequence[T] = (),
        *,
        empty: str = "",
        id: str | None = None,
    ) -> None:
        """empty: what to say where there is no row."""
        super().__init__(id=id)
        self.columns = tuple(columns)
        self.empty = empty
        self.sort_column: TableColumn[T] | None = None
        self.reversed = False
        self.cursor = 0
        self._given: Sequence[T] = rows
        self._rows: Sequence[T] = rows
        self._layout: list[tuple[TableColumn[T], int]] = []
        self._strips: dict[tuple[int, bool], Strip] = {}
        self._text_styles: dict[str, Style] = {}
        self._placed: Size | None = None

    # --- data ----------------------------------------------------------------------------------------

    @property
    def rows(self) -> Sequence[T]:
        """In the order shown."""
        return self._rows

    @property
    def row(self) -> T | None:
        """The current one."""
        return self._rows[self.cursor] if 0 <= self.cursor < len(self._rows) else None

    def set_rows(self, rows: Sequence[T]) -> None:
        """Other rows; the current one stays so if it is among them."""
        self._given = rows
        self._arrange(self.row)

    def set_columns(self, columns: Sequence[TableColumn[T]], rows: Sequence[T]) -> None:
        """Another table, from its top, in the order given."""
        self.columns, self.sort_column, self.reversed = tuple(columns), None, False
        self._given, self._rows = rows, rows
        self._lay_out()
        self._arrange(None)

    def sort_by(self, column: TableColumn[T] | None, *, reverse: bool = False) -> None:
        """Largest number or first text on top; rows without a value last. None: in the order given."""
        self.sort_column, self.reversed = column, reverse
        self._arrange(self.row)

    def refresh_rows(self) -> None:
        """The rows' content has changed."""
        self._strips.clear()
        self.refresh()

    def _arrange(self, current: T | None) -> None:
        rows = list(self._given)
        if self.sort_column and self.sort_column.value:
            value = self.sort_column.value
            known = [row for row in rows if value(row) is not None]
            unknown = [row for row in rows if value(row) is None]
            known.sort(key=value, reverse=self.sort_column.right != self.reversed)
            rows = known + unknown
        elif self.reversed:
            rows.reverse()
        self._rows = rows
        place = next((n for n, row in enumerate(rows) if row is current), 0)
        self._strips.clear()
        self._fit()
        self.cursor = -1
        self._go(place)
        self.refresh()

    # --- moving --------------------------------------------------------------------------------------

    def _go(self, place: int) -> None:
        place = max(0, min(place, len(self._rows) - 1))
        if place == self.cursor and self._rows:
            return
        before, self.cursor = self.cursor, place if self._rows else 0
        self._show_cursor()
        for row in (before, self.cursor):
            self.refresh_line(row + 1)
        self.post_message(self.Moved(self, self.row))

    def go_to(self, row: T) -> None:
        """Make a row the current one, if it is shown."""
        place = next((n for n, each in enumerate(self._rows) if each is row), None)
        if place is not None:
            self._go(place)

    def _show_cursor(self) -> None:
        room = max(self._room, 1)
        top = self.scroll_offset.y
        if self.cursor < top:
            top = self.cursor
        elif self.cursor >= top + room:
            top = self.cursor - room + 1
        else:
            return
        self.scroll_to(y=top, animate=False)

    @property
    def _room(self) -> int:
        """Rows on the screen."""
        return self.scrollable_content_region.height - 1

    def action_move(self, by: int) -> None:
        self._go(self.cursor + by)

    def action_page(self, by: int) -> None:
        self._go(self.cursor + by * max(self._room - 1, 1))

    def action_first(self) -> None:
        self._go(0)

    def action_last(self) -> None:
        self._go(len(self._rows) - 1)

    def action_choose(self) -> None:
        if self.row is not None:
            self.post_message(self.Chosen(self, self.row))

    def action_sort(self) -> None:
        """By the next column that can be sorted by; after the last, in the order given."""
        ways = [None, *(column for column, _ in self._layout if column.value)]
        place = ways.index(self.sort_column) if self.sort_column in ways else 0
        self.sort_by(ways[(place + 1) % len(ways)])

    def action_reverse(self) -> None:
        self.sort_by(self.sort_column, reverse=not self.reversed)

    def on_click(self, event: Click) -> None:
        event.stop()
        self.focus()
        at = event.get_content_offset(self)
        if at is None:
            return
        if at.y == 0:
            self._sort_at(at.x)
            return
        place = self.scroll_offset.y + at.y - 1
        if place >= len(self._rows):
            return
        if event.chain == 2 and place == self.cursor:
            self.action_choose()
        else:
            self._go(place)

    def _sort_at(self, x: int) -> None:
        left = 0
        for column, cells in self._layout:
            if left <= x < left + cells + 1 and column.value:
                again = column is self.sort_column
                self.sort_by(column, reverse=again and not self.reversed)
                return
            left += cells + 1

    # --- drawing -------------------------------------------------------------------------------------

    def placed(self) -> None:
        room = self.scrollable_content_region.size
        if room != self._placed:
            self._placed = room
            self._lay_out()
            self._fit()
            self._show_cursor()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()
        self._text_styles.clear()

    def _fit(self) -> None:
        self.set_length(len(self._rows) + 1)

    def _lay_out(self) -> None:
        room = self.scrollable_content_region.width - 1
        shown = list(self.columns)
        while sum(column.cells + 1 for column in shown) > room:
            worst = max(shown, key=lambda column: column.drop)
            if worst.drop == 0:
                break
            shown.remove(worst)
        spare = max(0, room - sum(column.cells + 1 for column in shown))
        growing = [column for column in shown if column.grow]
        extra = {id(column): spare // len(growing) for column in growing}
        self._layout = [(column, column.cells + extra.get(id(column), 0)) for column in shown]
        self._strips.clear()

    def render_line(self, y: int) -> Strip:
        columns = self.size.width
        if y == 0:
            return self._header(columns)
        place = self.scroll_offset.y + y - 1
        if place >= len(self._rows):
            base = self._style("table--row")
            if y == 1 and not self._rows and self.empty:
                text = cut(clean(self.empty), columns - 2)
                return _strip([Segment(" " + text, self._text_style("muted"))], columns, base)
            return Strip.blank(columns, base)
        key = (place, place == self.cursor)
        found = self._strips.get(key)
        if found is None or found.cell_length != columns:
            found = self._strips[key] = self._drawn(self._rows[place], key[1], columns)
        return found

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(name)

    def _text_style(self, name: str) -> Style:
        if name not in self._text_styles:
            self._text_styles[name] = line_style(self, name)
        return self._text_styles[name]

    def _header(self, columns: int) -> Strip:
        style = self._style("table--header")
        texts = []
        for column, cells in self._layout:
            title = column.title
            if column is self.sort_column:
                title += "▲" if self.reversed else "▼"
            texts.append(pad(cut(title, cells), cells, right=column.right))
        return _strip([Segment(" " + " ".join(texts), style)], columns, style)

    def _drawn(self, row: T, current: bool, columns: int) -> Strip:
        base = self._style("table--cursor" if current else "table--row")
        segments = [Segment(" ", base)]
        for column, cells in self._layout:
            cell = column.cell(row)
            spans = [("", cell)] if isinstance(cell, str) else cell
            if column.end and column.end(row) and len(spans) == 1:
                spans = [(spans[0][0], cut_front(clean(spans[0][1]), cells))]
            segments += self._cell(spans, cells, column.right, base, current)
            segments.append(Segment(" ", base))
        return _strip(segments, columns, base)

    def _cell(
        self, spans: Sequence[Span], cells: int, right: bool, base: Style, plain: bool
    ) -> list[Segment]:
        drawn: list[Segment] = []
        left = cells
        for name, text in spans:
            if left <= 0:
                break
            # A name of megabytes is cut before it is looked at.
            shown = cut(clean(text[: 4 * cells + 8]), left)
            left -= width(shown)
            drawn.append(Segment(shown, base if plain or not name else self._text_style(name)))
        gap = Segment(" " * max(left, 0), base)
        return [gap, *drawn] if right else [*drawn, gap]


def cut_front(text: str, cells: int) -> str:
    """At most that many cells of a clean text's end, with an ellipsis where something was cut."""
    if width(text) <= cells:
        return text
    kept = text[-max(cells - 1, 1) :]
    while kept and width(kept) > cells - 1:
        kept = kept[1:]
    return f"…{kept}"


def _strip(segments: list[Segment], columns: int, base: Style) -> Strip:
    return Strip(segments).adjust_cell_length(columns, base)
