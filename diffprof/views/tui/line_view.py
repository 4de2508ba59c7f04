"""A widget that draws lines itself, as many as it is told, and scrolls through them."""

from __future__ import annotations

from typing import Any

from textual.geometry import Size
from textual.scroll_view import ScrollView


class LineView(ScrollView):
    """Its length changes at every key; the screen is laid out anew only where its place on it changes."""

    def placed(self) -> None:
        """Called when the screen has been laid out, before it is drawn."""

    def _size_updated(self, *args: Any, **more: Any) -> bool:
        # A Resize event would come after the drawing: the old lines would be seen first, and drawn twice.
        changed = super()._size_updated(*args, **more)
        self.placed()
        return changed

    def set_length(self, lines: int) -> None:
        """How many lines there are."""
        size = Size(self.scrollable_content_region.width, lines)
        if size == self.virtual_size:
            return
        if self._takes_other_room(lines):
            self.virtual_size = size
        else:
            self.set_reactive(ScrollView.virtual_size, size)
            self._scroll_update(size)
            self.refresh()

    def _takes_other_room(self, lines: int) -> bool:
        """Whether a widget as high as its lines becomes higher or lower. One that is cut off and stays so
        does not."""
        styles = self.styles
        if styles.height is None or not styles.height.is_auto:
            return False
        room = self.size.height
        return not (self.virtual_size.height > room and lines > room)
