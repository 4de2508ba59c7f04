"""The stored runs: open one, or mark two and compare them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.message import Message
from textual.widgets import Static
from textual.worker import get_current_worker

from diffprof.model import units
from diffprof.model.errors import DiffprofError
from diffprof.model.plain import clean
from diffprof.model.runs import StoredRun, list_stored
from diffprof.views import words
from diffprof.views.alone import render_alone
from diffprof.views.tui.article import Article
from diffprof.views.tui.comparison_page import comparison_of
from diffprof.views.tui.styles import Span, Writing, styled
from diffprof.views.tui.table import TableColumn, TableView

_TICK_S = 10.0
"""Seconds after which ages are written anew."""


class RunsPane(Container):
    """The tab of the stored runs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "Mark"),
        Binding("c", "compare", "Compare"),
        Binding("r", "reload", "Read again"),
        Binding("escape", "back", "Back", show=False),
    ]

    class Opened(Message):
        """A run is to be shown."""

        def __init__(self, folder: Path) -> None:
            super().__init__()
            self.folder = folder

    def __init__(
        self, traces: Path, shown: str | None, *, clock: Callable[[], datetime.datetime] | None = None
    ) -> None:
        """shown: the folder of the run on the screen. clock: what ages are counted from."""
        super().__init__()
        self.traces = traces
        self.shown = shown
        self.clock = clock or partial(datetime.datetime.now, datetime.UTC)
        self.runs: list[StoredRun] = []
        self.marked: list[Path] = []
        """At most two: before and after."""

    def compose(self) -> ComposeResult:
        yield Static(classes="title", markup=False)
        with Vertical(id="runs"):
            yield TableView[StoredRun](self._columns(), empty="Reading…")
            yield Article()

    def on_mount(self) -> None:
        self.query_one(TableView).focus()
        self.action_reload()
        self.set_interval(_TICK_S, self.query_one(TableView).refresh_rows)

    def _columns(self) -> tuple[TableColumn[StoredRun], ...]:
        return (
            TableColumn("", self._mark, 2),
            TableColumn("run", self._named, 20, grow=True, value=lambda r: r.name),
            TableColumn("target", lambda r: r.target, 12, grow=True, value=lambda r: r.target, drop=4),
            TableColumn("device", lambda r: [("muted", r.device)], 14, value=lambda r: r.device, drop=3),
            TableColumn("in loop", lambda r: _count(r.in_loop), 7, right=True, value=lambda r: r.in_loop),
            TableColumn(
                "findings", lambda r: _count(r.findings), 8, right=True, value=lambda r: r.findings, drop=1
            ),
            TableColumn("age", self._age, 10, drop=2),
            TableColumn("", _note, 10),
        )

    def _mark(self, run: StoredRun) -> list[Span]:
        if run.folder in self.marked:
            return [("accent", "AB"[self.marked.index(run.folder)])]
        return [("good", "●")] if self._is_shown(run) else [("", "")]

    def _age(self, run: StoredRun) -> str:
        return words.age(run.created, self.clock()) if run.created else ""

    def _is_shown(self, run: StoredRun) -> bool:
        return self.shown is not None and Path(self.shown).resolve() == run.folder.resolve()

    def _named(self, run: StoredRun) -> list[Span]:
        return [("bad" if run.error else "strong" if self._is_shown(run) else "", run.name)]

    # --- reading -------------------------------------------------------------------------------------

    def action_reload(self) -> None:
        self._title("reading…")
        self.run_worker(self._read, thread=True, exclusive=True, group="read", exit_on_error=False)

    def _read(self) -> None:
        worker = get_current_worker()
        found: list[StoredRun] = []
        error = ""
        try:
            found = list_stored(self.traces)
        except DiffprofError as problem:
            error = problem.what
        if not worker.is_cancelled:
            self.app.call_from_thread(self._show, found, error)

    def _show(self, runs: list[StoredRun], error: str) -> None:
        if not self.is_attached:
            return
        self.runs = runs
        table = self.query_one(TableView)
        table.empty = error or f"No run is stored in {self.traces}."
        table.set_rows(runs)
        current = next((run for run in runs if self._is_shown(run)), None)
        if current is not None:
            table.go_to(current)
        self._title()

    def _title(self, note: str = "") -> None:
        text = note or f"{units.plural(len(self.runs), 'run')} in {self.traces}"
        marks = "; space marks two to compare" if len(self.marked) < 2 else "; c compares A with B"
        self.query_one(".title", Static).update(styled(clean(text), ("muted", marks)), layout=False)

    # --- one run -------------------------------------------------------------------------------------

    @on(TableView.Moved)
    def _moved(self, event: TableView.Moved) -> None:
        event.stop()
        if isinstance(event, TableView.Chosen) and event.row.alone:
            self._show_alone(True)
            self.query_one(Article).focus()
        elif isinstance(event, TableView.Chosen):
            self.post_message(self.Opened(event.row.folder))
        elif event.row is not None:
            self.query_one(Article).show(_page(event.row))

    # --- two runs ------------------------------------------------------------------------------------

    def action_mark(self) -> None:
        run = self.query_one(TableView).row
        if run is None or run.error or run.alone:
            return
        if run.folder in self.marked:
            self.marked.remove(run.folder)
        else:
            self.marked = [*self.marked, run.folder][-2:]
        self.query_one(TableView).refresh_rows()
        self._title()

    def action_compare(self) -> None:
        """A and B; with one mark, that one and the current run; with none, the run on the screen and the
        current one, the older as A."""
        row = self.query_one(TableView).row
        run = None if row is None or row.alone else row
        pair = list(self.marked)
        if len(pair) == 1 and run is not None and run.folder not in pair:
            pair.append(run.folder)
        elif not pair and run is not None:
            newest_first = [each.folder for each in self.runs if each is run or self._is_shown(each)]
            pair = newest_first[::-1]
        if len(pair) != 2:
            self.notify("Mark two runs with space first.", severity="warning", timeout=3)
            return
        self._title("comparing…")
        self.run_worker(lambda: self._compare(*pair), thread=True, exclusive=True, group="compare")

    def _compare(self, before: Path, after: Path) -> None:
        self.app.call_from_thread(self._compared, comparison_of(before, after))

    def _compared(self, page: Writing) -> None:
        if self.is_attached:
            self._title()
            article = self.query_one(Article)
            article.show(page)
            self._show_alone(True)
            article.focus()

    def action_back(self) -> None:
        self._show_alone(False)
        self.query_one(TableView).focus()

    def _show_alone(self, alone: bool) -> None:
        """The page with or without the list."""
        self.query_one(TableView).display = not alone
        self.query_one(Article).set_class(alone, "-alone")


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _note(run: StoredRun) -> list[Span]:
    if run.error:
        return [("bad", "damaged")]
    return [("warn", "partial")] if run.partial else [("muted", run.alone)]


def _page(run: StoredRun) -> Writing:
    page = Writing()
    page.flow(("strong", run.name))
    if run.error:
        page.flow(("bad", run.error))
        page.flow(("muted", "Scan again with `diffprof scan`."))
    page.fact("target", run.target)
    page.fact("device", run.device)
    page.fact("created", run.created)
    page.fact("folder", str(run.folder))
    if run.alone and not run.error:
        page.heading(run.alone.capitalize())
        for line in _alone_lines(run):
            page.kept(line, indent=2)
    return page


def _alone_lines(run: StoredRun) -> list[str]:
    try:
        return (render_alone(run.folder) or "").splitlines()
    except DiffprofError as error:
        return [error.what]
