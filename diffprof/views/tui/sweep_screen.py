"""A sweep in tabs: what no other row beats, curves over batch and steps, and every row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import ContentSwitcher

from diffprof.judge.frontier import AXES, Curve, best, curves, subject
from diffprof.model.sweep import FAILED, OK, SweepRow
from diffprof.model.units import gib, number
from diffprof.views.sweeps import row_cells, sparkline, summary
from diffprof.views.tui.article import Article
from diffprof.views.tui.key_bar import KeyBar
from diffprof.views.tui.styles import Span, Writing, bar
from diffprof.views.tui.tab_strip import TabStrip
from diffprof.views.tui.table import TableColumn, TableView

_BAR = 12
_STYLES = {OK: "", FAILED: "bad"}


def row_columns(rows: Sequence[SweepRow]) -> tuple[TableColumn[SweepRow], ...]:
    """Of rows of a sweep; the bar is full at the longest image of the row's subject."""
    longest: dict[str, float] = {}
    for row in rows:
        longest[subject(row)] = max(longest.get(subject(row), 0.0), row.seconds_per_image or 0.0)

    def cell(name: str) -> Callable[[SweepRow], list[Span]]:
        return lambda row: [(_STYLES.get(row.status, "muted"), row_cells(row)[name])]

    def share(row: SweepRow) -> list[Span]:
        whole = longest[subject(row)]
        return [("accent", bar((row.seconds_per_image or 0.0) / whole, _BAR) if whole else "")]

    columns = (
        TableColumn(
            "target", lambda r: [(_STYLES.get(r.status, "muted"), subject(r))], 10, True, value=subject
        ),
        TableColumn("device", cell("device"), 12, value=lambda r: r.device),
        TableColumn("mode", cell("mode"), 9, value=lambda r: r.mode),
        TableColumn("batch", cell("batch"), 5, right=True, value=lambda r: r.batch),
        TableColumn("seconds", cell("seconds"), 8, right=True, value=lambda r: r.seconds, drop=3),
        TableColumn("s/image", cell("image"), 8, right=True, value=lambda r: r.seconds_per_image),
        TableColumn("", share, _BAR, drop=2),
        TableColumn("for 1,000", cell("cost"), 9, right=True, value=lambda r: r.per_thousand, drop=4),
        TableColumn("GiB of", cell("memory"), 13, right=True, value=lambda r: r.peak_gib),
        TableColumn("waits", cell("waits"), 5, right=True, value=lambda r: r.waits, drop=6),
        TableColumn("bound by", cell("bound"), 8, value=lambda r: r.bound, drop=5),
        TableColumn("", cell("reason"), 6, True, drop=7),
    )
    return tuple(each for each in columns if each.title != "for 1,000" or any(r.per_thousand for r in rows))


def curve_columns() -> tuple[TableColumn[Curve], ...]:
    """Of curves over any axis."""
    return (
        TableColumn("over", lambda c: c.axis, 6, value=lambda c: c.axis),
        TableColumn("target", lambda c: c.target, 10, True, value=lambda c: c.target),
        TableColumn("device", lambda c: c.device, 12, value=lambda c: c.device),
        TableColumn("mode", lambda c: c.mode, 9, value=lambda c: c.mode),
        TableColumn("", lambda c: c.other, 6, True, drop=1),
        TableColumn("shape", lambda c: [("accent", sparkline([us for _, us in c.points]))], 8),
        TableColumn("s/image", _points, 24, True, value=lambda c: c.points[-1][1]),
    )


def _points(curve: Curve) -> str:
    return ", ".join(f"{value}: {number(seconds)}" for value, seconds in curve.points)


class SweepScreen(Screen[None]):
    """The rows of a sweep; what is known of the current one stands below."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(n), f"tab({n})", show=False) for n in range(1, 4)),
    ]

    def __init__(self, rows: Sequence[SweepRow]) -> None:
        super().__init__()
        self.rows = rows

    def compose(self) -> ComposeResult:
        kept = best(self.rows)
        followed = {(row.target, row.device, row.mode) for row in kept}
        found = [curve for axis in AXES for curve in curves(self.rows, axis)]
        found.sort(key=lambda curve: (curve.target, curve.device, curve.mode) not in followed)
        yield TabStrip(("Frontier", "Curves", "Table"), summary(self.rows))
        with ContentSwitcher(initial="tab-1"):
            with Vertical(id="tab-1"):
                yield TableView[SweepRow](row_columns(kept), kept, empty="No row has a time.")
                yield Article()
            yield TableView[Curve](curve_columns(), found, empty="No axis has two values.", id="tab-2")
            yield TableView[SweepRow](row_columns(self.rows), self.rows, empty="No row.", id="tab-3")
        yield KeyBar()

    async def on_mount(self) -> None:
        await self.action_tab(1)
        self._write(self.query_one("#tab-1 TableView", TableView).row)

    async def action_tab(self, tab: int) -> None:
        """Open a tab."""
        switcher = self.query_one(ContentSwitcher)
        switcher.current = f"tab-{tab}"
        self.query_one(TabStrip).show(tab)
        where = self.query_one(f"#tab-{tab}")
        (where if isinstance(where, TableView) else where.query_one(TableView)).focus()

    @on(TabStrip.Pressed)
    async def _tab(self, event: TabStrip.Pressed) -> None:
        await self.action_tab(event.number)

    @on(TableView.Moved)
    def _moved(self, event: TableView.Moved) -> None:
        event.stop()
        if event.table.id is None:
            self._write(event.row)

    def _write(self, row: SweepRow | None) -> None:
        if row is not None:
            self.query_one(Article).show(row_page(row))


def row_page(row: SweepRow) -> Writing:
    """One row with all that has a place on no line of the table."""
    page = Writing()
    page.flow(("strong", f"{subject(row)} on {row.gpu or row.device}"), f", {row.mode}, batch {row.batch}")
    told: dict[str, Any] = {
        "time": None if row.seconds is None else f"{number(row.seconds)} s, {_range(row)}",
        "a step": None if row.per_step_ms is None else f"{number(row.per_step_ms)} ms",
        "memory": None if row.peak_gib is None else f"{gib(row.peak_gib)} GiB of {row.memory_gib:g}",
        "weights": None if row.weights_gib is None else f"{row.weights_gib:.1f} GiB",
        "waits": None if row.waits is None else f"{row.waits}, {row.waits_in_loop} in the loop",
        "fixes": row.fixes,
        "why": row.reason,
        "with": f"diffprof {row.diffprof}, torch {row.torch}, diffusers {row.diffusers}",
    }
    for label, value in told.items():
        if value:
            page.fact(label, value)
    return page


def _range(row: SweepRow) -> str:
    return (
        "simulated" if row.range is None else f"{number(row.range[0])} to {number(row.range[1])}, simulated"
    )
