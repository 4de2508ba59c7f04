"""Kernels: device time by kernel, operation, shape, family, module or phase, and what is inside of each."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Input, Static

from diffprof.model.recording import KernelRow, Recording
from diffprof.model.units import milliseconds, plural
from diffprof.views.times import on_cpu
from diffprof.views.tui.filter_bar import Search
from diffprof.views.tui.kernel_groups import WAYS, KernelGroup, grouped
from diffprof.views.tui.styles import bar, styled
from diffprof.views.tui.table import TableColumn, TableView

_BAR = 12


def _figure(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)


def kernel_columns(by: str) -> tuple[TableColumn[KernelGroup], ...]:
    """The ends of long names tell modules and kernels apart."""
    ends = by in ("module", "kernel")
    return (
        TableColumn(by, lambda g: g.name, 28, grow=True, value=lambda g: g.name, end=lambda g: ends),
        TableColumn("ms", lambda g: f"{g.device_us / 1e3:,.3f}", 9, right=True, value=lambda g: g.device_us),
        TableColumn("share", lambda g: f"{g.share:.1%}", 6, right=True, value=lambda g: g.share),
        TableColumn("", lambda g: [("good", bar(g.share, _BAR))], _BAR, drop=2),
        TableColumn("calls", lambda g: f"{g.count:,}", 7, right=True, value=lambda g: g.count),
        TableColumn("mean us", lambda g: f"{g.mean_us:,.1f}", 9, right=True, value=lambda g: g.mean_us),
        TableColumn("family", lambda g: [("muted", g.family)], 9, value=lambda g: g.family, drop=3),
        TableColumn(
            "TFLOP/s", lambda g: _figure(g.tflops, "{:,.1f}"), 8, right=True, value=lambda g: g.tflops, drop=4
        ),
        TableColumn(
            "GB/s", lambda g: _figure(g.gbytes, "{:,.0f}"), 7, right=True, value=lambda g: g.gbytes, drop=5
        ),
    )


class KernelsPane(Container):
    """The tab of the kernels of a recording that has them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("g", "group", "Group by"),
        Binding("slash", "search", "Search", key_display="/"),
        Binding("plus,equals_sign", "deeper(1)", "Deeper", key_display="+", show=False),
        Binding("minus", "deeper(-1)", "Shallower", key_display="-", show=False),
        Binding("escape,backspace", "back", "Back"),
        Binding("x", "clear", "Clear", show=False),
    ]

    def __init__(self, recording: Recording, kernels: tuple[KernelRow, ...]) -> None:
        super().__init__()
        self.kernels = kernels
        self.whole_us = sum(row.device_us for row in kernels)
        self.grade = recording.timeline.grade if recording.timeline else recording.device.grade
        self.what = "in the CPU's operators" if on_cpu(recording) else "device time"
        self.by = "kernel"
        self.depth = 3
        self.inside: list[tuple[str, KernelGroup]] = []
        """(what it was grouped by, the group) that was opened, outermost first."""
        self.text = ""

    def compose(self) -> ComposeResult:
        yield Static(id="kernels-title", markup=False)
        yield Search()
        yield TableView[KernelGroup]((), empty="No kernel was recorded.")

    def on_mount(self) -> None:
        self._group()
        self.query_one(TableView).focus()

    def _group(self) -> None:
        """Sum up what is shown now."""
        rows = self.inside[-1][1].rows if self.inside else self.kernels
        groups = grouped(rows, self.by, depth=self.depth, whole_us=self.whole_us)
        words = self.text.casefold().split()
        shown = [group for group in groups if all(word in group.name.casefold() for word in words)]
        table = self.query_one(TableView)
        table.empty = "Nothing matches; x clears the search." if words else "No kernel was recorded."
        table.set_columns(kernel_columns(self.by), shown)
        total = sum(group.device_us for group in shown)
        path = "".join(f"{group.name} › " for _, group in self.inside)
        depth = f", {plural(self.depth, 'level')} deep" if self.by == "module" else ""
        self.query_one("#kernels-title", Static).update(
            styled(
                ("place", path),
                ("strong", f"by {self.by}"),
                ("muted", f"{depth}  {milliseconds(total / 1e3)} of {milliseconds(self.whole_us / 1e3)} "),
                ("muted", f"{self.what} per call ({self.grade}), {plural(len(shown), 'row')}"),
            )
        )

    def action_group(self) -> None:
        ways = [way for way in WAYS if way not in {by for by, _ in self.inside}]
        place = ways.index(self.by) if self.by in ways else -1
        self.by = ways[(place + 1) % len(ways)]
        self._group()

    def action_deeper(self, by: int) -> None:
        self.depth = max(1, self.depth + by)
        self._group()

    def action_back(self) -> None:
        if self.inside:
            self.by, _ = self.inside.pop()
            self._group()
        self.query_one(TableView).focus()

    @on(TableView.Chosen)
    def _opened(self, event: TableView.Chosen) -> None:
        """What is inside of a group: by another way of grouping."""
        event.stop()
        self.inside.append((self.by, event.row))
        used = {by for by, _ in self.inside}
        wanted = ("kernel", "module", "shape", "phase", "op", "family")
        left = [way for way in wanted if way not in used]
        if not left:
            self.inside.pop()
            return
        self.by = left[0]
        self._group()

    def action_search(self) -> None:
        self.query_one(Search).focus()

    def action_clear(self) -> None:
        self.query_one(Search).value = ""

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self.text:
            self.text = event.value
            self._group()

    @on(Search.Left)
    def _searched(self, event: Search.Left) -> None:
        event.stop()
        self.query_one(TableView).focus()
