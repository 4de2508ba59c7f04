"""The drawing of the tracks: one column a slice of time, one row a track."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, MouseDown, MouseMove, MouseScrollDown, MouseScrollUp, MouseUp
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from diffprof.model.plain import clean, cut, pad
from diffprof.views.tui.timeline_tracks import Stretches, TimelineTracks, TrackPhase, Window, ticks, time_text

Cells = Sequence[tuple[str, Style]]
"""A character and its style, for each column."""
Row = tuple[str, Cells]
"""A track's name and its cells."""
LABEL = 12
"""Cells of the tracks' names."""
_HEIGHTS = " ▁▂▃▄▅▆▇█"
_MAP = "call"
"""The row that shows the whole call; the cursor is not on it."""
_ZOOM = 2.0
_ZOOMING = Binding.Group("Zoom", compact=True)
_PAN = 0.25
"""Of the window, for a step of panning."""


class TimelineView(Widget, can_focus=True):
    """Tracks over a window of time, with a cursor; posts `Pointed` when window or cursor move."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "track--label",
        "track--ruler",
        "track--part",
        "track--part-odd",
        "track--host",
        "track--full",
        "track--wait",
        "track--device",
        "track--family",
        "track--map",
        "track--map-window",
        "track--cursor",
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", "Left", show=False),
        Binding("right", "step(1)", "Right", show=False),
        Binding("shift+left,h,less_than_sign", "pan(-1)", "Pan left", show=False),
        Binding("shift+right,l,greater_than_sign", "pan(1)", "Pan right", show=False),
        Binding("plus,equals_sign,up", "zoom(1)", "Zoom in", key_display="+", group=_ZOOMING),
        Binding("minus,down", "zoom(-1)", "Zoom out", key_display="-", group=_ZOOMING),
        Binding("0", "whole", "Whole", key_display="0"),
        Binding("z", "part", "Step"),
        Binding("n", "wait(1)", "Next wait"),
        Binding("N", "wait(-1)", "Previous wait", show=False),
        Binding("home", "edge(0)", "Start", show=False),
        Binding("end", "edge(1)", "End", show=False),
        Binding("enter", "choose", "Finding"),
    ]

    class Pointed(Message):
        """The cursor is on [start, end)."""

        def __init__(self, start_us: float, end_us: float) -> None:
            super().__init__()
            self.start_us = start_us
            self.end_us = end_us

    class Chosen(Pointed):
        """The cursor's place was opened."""

    def __init__(self, tracks: TimelineTracks) -> None:
        super().__init__()
        self.tracks = tracks
        self.window = Window(
            0.0, max(tracks.total_us, Window.LEAST_US), max(tracks.total_us, Window.LEAST_US)
        )
        self.cursor = 0
        self._drag: tuple[int, Window] | None = None
        self._dragged = False
        self._drawn_for: object = None
        self._drawn: list[Row] = []
        self._strips: list[Strip] = []

    def show(self, tracks: TimelineTracks) -> None:
        """Other tracks; the window stays where it is, as far as they reach."""
        self.tracks = tracks
        total = max(tracks.total_us, Window.LEAST_US)
        whole = self.window.length_us >= self.window.total_us
        window = Window(0.0, total, total)
        self.window = window if whole else window.at(self.window.start_us, self.window.length_us)
        self._changed()

    # --- place ---------------------------------------------------------------------------------------

    @property
    def columns(self) -> int:
        return max(self.size.width - LABEL, 1)

    @property
    def column_us(self) -> float:
        return self.window.length_us / self.columns

    @property
    def cursor_us(self) -> float:
        """The middle of the cursor's column."""
        return self.window.start_us + (self.cursor + 0.5) * self.column_us

    def column_at(self, time: float) -> int:
        return int((time - self.window.start_us) / self.column_us)

    def go_to(self, time: float) -> None:
        """The cursor to a time; the window follows."""
        if not self.window.start_us <= time < self.window.end_us:
            self.window = self.window.at(time - self.window.length_us / 2, self.window.length_us)
        self.cursor = max(0, min(self.column_at(time), self.columns - 1))
        self._changed()

    def _move(self, window: Window) -> None:
        self.window = window
        self._changed()

    def _changed(self) -> None:
        self.cursor = max(0, min(self.cursor, self.columns - 1))
        self.refresh()
        start = self.window.start_us + self.cursor * self.column_us
        self.post_message(self.Pointed(start, start + self.column_us))

    def on_mount(self) -> None:
        self.call_after_refresh(self._changed)

    def on_resize(self) -> None:
        self._changed()

    # --- keys ----------------------------------------------------------------------------------------

    def action_step(self, by: int) -> None:
        place = self.cursor + by
        if 0 <= place < self.columns:
            self.cursor = place
            self._changed()
        else:
            self.action_pan(by)

    def action_pan(self, by: int) -> None:
        self._move(self.window.moved(by * _PAN * self.window.length_us))

    def action_zoom(self, by: int) -> None:
        """Around the cursor, or the wait that it is on."""
        start = self.window.start_us + self.cursor * self.column_us
        marks = self.tracks.marks_in(start, start + self.column_us)
        time = marks[0].start_us if marks else self.cursor_us
        self.window = self.window.zoomed(_ZOOM**-by, time)
        self.go_to(time)

    def action_whole(self) -> None:
        time = self.cursor_us
        self.window = Window(0.0, self.window.total_us, self.window.total_us)
        self.go_to(time)

    def action_part(self) -> None:
        """The step or phase under the cursor, on the CPU; again: the whole call."""
        part = _part_at(self.tracks.host_parts, self.cursor_us) or _part_at(
            self.tracks.device_parts, self.cursor_us
        )
        if part is None:
            return
        wanted = self.window.showing(part.start_us, part.end_us)
        if abs(wanted.start_us - self.window.start_us) + abs(wanted.length_us - self.window.length_us) < 1.0:
            self.action_whole()
        else:
            self.window = wanted
            self.go_to(max(wanted.start_us, self.cursor_us))

    def action_wait(self, by: int) -> None:
        edge = self.window.start_us + (self.cursor + (by > 0)) * self.column_us
        mark = self.tracks.mark_beside(edge - (1e-9 if by > 0 else 0.0), before=by < 0)
        if mark is None:
            self.notify("No wait there.", timeout=2)
        else:
            self.go_to(mark.start_us)

    def action_edge(self, end: int) -> None:
        self.go_to(self.window.total_us * 0.999999 if end else 0.0)

    def action_choose(self) -> None:
        start = self.window.start_us + self.cursor * self.column_us
        self.post_message(self.Chosen(start, start + self.column_us))

    # --- mouse ---------------------------------------------------------------------------------------

    def on_mouse_down(self, event: MouseDown) -> None:
        self._drag, self._dragged = (event.x, self.window), False
        self.capture_mouse()

    def on_mouse_move(self, event: MouseMove) -> None:
        if self._drag is None:
            return
        x, window = self._drag
        if event.x != x or self._dragged:
            self._dragged = True
            self._move(window.moved((x - event.x) * self.column_us))

    def on_mouse_up(self, event: MouseUp) -> None:
        self._drag = None
        self.release_mouse()

    def on_click(self, event: Click) -> None:
        event.stop()
        self.focus()
        column = event.x - LABEL
        if self._dragged or not 0 <= column < self.columns:
            return
        if event.y == 0:
            self.go_to((column + 0.5) / self.columns * self.window.total_us)
            return
        self.cursor = column
        self._changed()
        if event.chain == 2:
            self.action_choose()

    def on_mouse_scroll_up(self, event: MouseScrollUp) -> None:
        self._wheel(event.x, 1, pan=event.shift or event.ctrl)
        event.stop()

    def on_mouse_scroll_down(self, event: MouseScrollDown) -> None:
        self._wheel(event.x, -1, pan=event.shift or event.ctrl)
        event.stop()

    def _wheel(self, x: int, by: int, *, pan: bool) -> None:
        if pan:
            self.action_pan(-by)
        else:
            column = max(0, min(x - LABEL, self.columns - 1))
            around = self.window.start_us + (column + 0.5) * self.column_us
            self._move(self.window.zoomed(_ZOOM**-by, around))

    # --- drawing -------------------------------------------------------------------------------------

    def render_lines(self, crop: Region) -> list[Strip]:
        key = (self.window, self.columns, id(self.tracks), self.app.theme, self.has_focus)
        if key != self._drawn_for:
            self._drawn_for, self._drawn = key, list(self._draw())
        self._strips = [self._row(label, cells) for label, cells in self._drawn]
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def _draw(self) -> Iterator[Row]:
        """Every row without the cursor."""
        tracks = self.tracks
        yield self._map()
        yield self._ruler()
        yield self._parts("host phase", tracks.host_parts)
        yield self._track("host", [(tracks.host, "track--host")])
        yield self._track("waits", [(tracks.waits, "track--wait"), (tracks.full, "track--full")])
        yield self._marks()
        yield self._parts("gpu phase", tracks.device_parts)
        for stream, spans in tracks.device.items():
            name = "gpu" if len(tracks.device) == 1 else f"stream {stream}"
            yield self._track(name, [(spans, "track--device")])
        for name, spans in tracks.families.items():
            yield self._track(f" {name}", [(spans, "track--family")])

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(name)

    def _row(self, label: str, cells: Cells) -> Strip:
        """A label and one character a column; the cursor's column stands out."""
        segments = [Segment(pad(f" {cut(clean(label), LABEL - 2)}", LABEL), self._style("track--label"))]
        at = self.cursor if label != _MAP else -1
        mark = self._style("track--cursor")
        for column, (char, style) in enumerate(cells):
            if column == at:
                segments.append(Segment(char, style + mark))
            elif segments[-1].style is style and column != at + 1:
                segments[-1] = Segment(segments[-1].text + char, style)
            else:
                segments.append(Segment(char, style))
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)

    def _edges(self) -> list[float]:
        start, each = self.window.start_us, self.column_us
        return [start + n * each for n in range(self.columns + 1)]

    def _track(self, label: str, layers: Sequence[tuple[Stretches, str]]) -> Row:
        """How busy each slice was, in eighths; the busiest layer gives the colour."""
        edges = self._edges()
        totals = [[spans.until(edge) for edge in edges] for spans, _ in layers]
        styles = [self._style(name) for _, name in layers]
        cells = []
        each = self.column_us
        for n in range(self.columns):
            shares = [(total[n + 1] - total[n]) / each for total in totals]
            most = max(range(len(shares)), key=shares.__getitem__)
            share = min(sum(shares), 1.0)
            height = 0 if share <= 0.0 else max(1, round(share * 8))
            cells.append((_HEIGHTS[height], styles[most]))
        return label, cells

    def _map(self) -> Row:
        """The whole call, and where in it the window is."""
        total = self.window.total_us
        device = list(self.tracks.device.values())
        plain, inside = self._style("track--map"), self._style("track--map-window")
        each = total / self.columns
        first, last = self.window.start_us / each, self.window.end_us / each
        cells = []
        for n in range(self.columns):
            share = max((spans.share(n * each, (n + 1) * each) for spans in device), default=0.0)
            height = 0 if share <= 0.0 else max(1, round(share * 8))
            here = n + 1 > first and n < last
            cells.append((_HEIGHTS[height], inside if here else plain))
        return _MAP, cells

    def _ruler(self) -> Row:
        found = ticks(self.window.start_us, self.window.end_us, max(self.columns // 14, 1))
        gap = found[1] - found[0] if len(found) > 1 else self.window.length_us
        text = [" "] * self.columns
        for tick in found:
            at = self.column_at(tick)
            for n, char in enumerate(f"╵{time_text(tick, gap)}"):
                if 0 <= at + n < self.columns:
                    text[at + n] = char
        style = self._style("track--ruler")
        return "", [(char, style) for char in text]

    def _parts(self, label: str, parts: Sequence[TrackPhase]) -> Row:
        """Phases and steps by name, neighbours told apart by their shade."""
        cells: list[tuple[str, Style]] = [(" ", self._style("track--label"))] * self.columns
        shades = (self._style("track--part"), self._style("track--part-odd"))
        begins = [self.column_at(part.start_us) for part in parts]
        for number, part in enumerate(parts):
            first = max(begins[number], 0)
            last = min([self.column_at(part.end_us) + 1, self.columns, *begins[number + 1 : number + 2]])
            if last <= first:
                continue
            # A blank stands between two names; one letter is none.
            room = last - first - 1
            name = (cut(clean(part.name), room) if room > 1 else "").ljust(last - first)
            # A wide character would shift the columns behind it.
            cells[first:last] = [(char if char.isascii() else "…", shades[number % 2]) for char in name]
        return label, cells[: self.columns]

    def _marks(self) -> Row:
        """Where the CPU began to wait; a digit for several in one column."""
        style, none = self._style("track--wait"), self._style("track--label")
        counts = [0] * self.columns
        start, each, last = self.window.start_us, self.column_us, self.columns - 1
        for mark in self.tracks.marks_in(start, self.window.end_us):
            counts[min(int((mark.start_us - start) / each), last)] += 1
        shown = [" " if not n else "▾" if n == 1 else str(n) if n < 10 else "+" for n in counts]
        total = sum(counts)
        return f"syncs {total:,}", [(c, style if c != " " else none) for c in shown]


def _part_at(parts: Sequence[TrackPhase], time: float) -> TrackPhase | None:
    return next((part for part in parts if part.start_us <= time < part.end_us), None)
