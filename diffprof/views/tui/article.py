"""A page of text that scrolls: filled to the width there is, text selectable with the mouse."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style

from diffprof.views.tui.line_view import LineView
from diffprof.views.tui.styles import Writing, laid_out


class Article(LineView, can_focus=True):
    """Shows a `Writing`. Only the lines on the screen are drawn."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "scroll_down", "Down", show=False),
        Binding("k", "scroll_up", "Up", show=False),
        Binding("space", "page_down", "Page", show=False),
    ]

    def __init__(self, writing: Writing | None = None, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.writing = writing or Writing()
        self.lines: list[Content] = []
        self._columns = 0
        self._strips: dict[int, Strip] = {}

    def placed(self) -> None:
        if self.scrollable_content_region.width != self._columns:
            self._fill()

    def show(self, writing: Writing) -> None:
        """Another text, from its top."""
        self.writing = writing
        self._fill()
        self.scroll_to(y=0, animate=False)

    def _fill(self) -> None:
        region = self.scrollable_content_region
        self._columns = region.width
        if not self._columns:
            return
        self.lines = laid_out(self.writing.blocks, self.room)
        self._strips.clear()
        self.set_length(len(self.lines))
        self.refresh()

    @property
    def room(self) -> int:
        """Cells of a line. One stays free for the scroll bar, whose coming so does not fill it anew."""
        return self.scrollable_content_region.width - (0 if self.show_vertical_scrollbar else 1)

    # --- drawing -------------------------------------------------------------------------------------

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()

    def render_line(self, y: int) -> Strip:
        place = y + self.scroll_offset.y
        columns = self.scrollable_content_region.width
        if place >= len(self.lines):
            return Strip.blank(columns, self.visual_style.rich_style)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(place)) is not None:
            line = self.lines[place]
            start, end = span
            end = len(line) if end == -1 else end
            style = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            return self._drawn(line.stylize(style, start, end), place, columns)
        found = self._strips.get(place)
        if found is None or found.cell_length != columns:
            found = self._strips[place] = self._drawn(self.lines[place], place, columns)
        return found

    def _drawn(self, line: Content, place: int, columns: int) -> Strip:
        """A line; each piece of it knows where it stands in the text, for the mouse to select it."""
        base = self.visual_style
        segments = []
        x = 0
        for text, style in line.render(base, end="", parse_style=self._get_style):
            segments.append(Segment(text, (base + style).rich_style_with_offset(x, place)))
            x += len(text)
        return Strip(segments).adjust_cell_length(columns, base.rich_style)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return selection.extract("\n".join(line.plain for line in self.lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self.refresh()
