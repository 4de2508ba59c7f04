"""The viewer's own widgets beside Textual's: how many times as long Textual's take for the same.

Run: python -m tests.benchmarks.bench_widgets

Both do the same in one process, one after the other, ROUNDS times; the best CPU time of each counts, from the
call until the screen has been drawn. A table is filled with ROWS findings, sorted, and filtered to half of
them, as every letter of a search does; a key bar follows the focus from one part with keys of its own to
another; a tab is opened. What is drawn is the same text in as many cells.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.pilot import Pilot
from textual.widget import Widget
from textual.widgets import DataTable, Footer, Static, Tabs

from diffprof.views.tui.key_bar import KeyBar
from diffprof.views.tui.tab_strip import TabStrip
from diffprof.views.tui.table import TableColumn, TableView

ROUNDS = 5
ROWS = 5_000
SIZE = (120, 40)
TITLES = ("Verdict", "Findings", "Timeline", "Kernels", "Graphs", "Linears", "Plan")
Row = tuple[str, ...]
Step = Callable[[App[None], int], Awaitable[None]]

rows: list[Row] = [
    (f"SYN{n:04}", "high", f"a wait of the loop {n}", f"{n * 7 % 997} ms") for n in range(ROWS)
]
names = ("code", "severity", "title", "saves")


class Part(Static, can_focus=True):
    """A part of the screen with keys of its own."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, "app.bell", f"Do {key}") for key in ("a", "s", "d", "f", "g", "z")
    ]


class OtherPart(Static, can_focus=True):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key, "app.pop", f"Go {key}") for key in ("h", "j", "k", "l", "n", "m")
    ]

    def action_go(self) -> None:
        """Nothing: only its key is shown."""


class Bench(App[None]):
    """A screen with one widget that is timed."""

    def __init__(self, *made: Callable[[], Widget]) -> None:
        super().__init__()
        self.made = made

    def compose(self) -> ComposeResult:
        for make in self.made:
            yield make()


def view() -> TableView[Row]:
    def column(n: int, name: str) -> TableColumn[Row]:
        return TableColumn(name, lambda row: row[n], 20, value=lambda row: row[n])

    return TableView([column(n, name) for n, name in enumerate(names)])


def data_table() -> DataTable[str]:
    return DataTable(cursor_type="row")


async def fill_view(app: App[None], _: int) -> None:
    app.query_one(TableView).set_rows(list(rows))


async def fill_table(app: App[None], _: int) -> None:
    table = app.query_one(DataTable)
    table.clear(columns=True)
    for name in names:
        table.add_column(name, width=20, key=name)
    table.add_rows(rows)


async def filter_view(app: App[None], turn: int) -> None:
    app.query_one(TableView).set_rows(rows[turn % 2 :: 2])


async def filter_table(app: App[None], turn: int) -> None:
    table = app.query_one(DataTable)
    table.clear()
    table.add_rows(rows[turn % 2 :: 2])


async def sort_view(app: App[None], turn: int) -> None:
    table = app.query_one(TableView)
    table.sort_by(table.columns[turn % 4])


async def sort_table(app: App[None], turn: int) -> None:
    app.query_one(DataTable).sort(names[turn % 4])


async def focus(app: App[None], turn: int) -> None:
    app.query_one((Part, OtherPart)[turn % 2]).focus()


async def own_tab(app: App[None], turn: int) -> None:
    app.query_one(TabStrip).show(turn % len(TITLES) + 1)


async def their_tab(app: App[None], turn: int) -> None:
    app.query_one(Tabs).active = f"tab-{turn % len(TITLES) + 1}"


async def best_ms(app: App[None], *steps: Step) -> list[float]:
    """The least CPU milliseconds of each step, drawing with it."""

    async def timed(step: Step, turn: int, pilot: Pilot[None]) -> float:
        start = time.process_time()
        await step(app, turn)
        await pilot.pause()
        return (time.process_time() - start) * 1e3

    async with app.run_test(size=SIZE) as pilot:
        turns = [[await timed(step, turn, pilot) for step in steps] for turn in range(ROUNDS)]
    return [min(each) for each in zip(*turns, strict=True)]


async def main() -> None:
    parts = (lambda: Part("one"), lambda: OtherPart("two"))
    pairs = (
        (("fill", "sort", "filter"), (view,), (data_table,), (fill_view, sort_view, filter_view),
         (fill_table, sort_table, filter_table), "TableView", "DataTable"),
        (("focus",), (*parts, KeyBar), (*parts, Footer), (focus,), (focus,), "KeyBar", "Footer"),
        (("tab",), (lambda: TabStrip(TITLES),), (lambda: Tabs(*TITLES),), (own_tab,), (their_tab,),
         "TabStrip", "Tabs"),
    )  # fmt: skip
    print(f"{'':<24} {'ours, CPU ms':>12} {'Textual, ms':>12} {'ratio':>6}")
    for doings, ours, theirs, our_steps, their_steps, name, other in pairs:
        mine = await best_ms(Bench(*ours), *our_steps)
        its = await best_ms(Bench(*theirs), *their_steps)
        for doing, one, two in zip(doings, mine, its, strict=True):
            print(f"{name + ' / ' + other + ', ' + doing:<24} {one:>12.1f} {two:>12.1f} {two / one:>6.1f}")


if __name__ == "__main__":
    asyncio.run(main())
