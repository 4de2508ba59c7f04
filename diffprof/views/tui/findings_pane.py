"""Findings: filters, the list, and everything about the current one."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical
from textual.message import Message
from textual.widgets import Input

from diffprof.model.finding import Finding
from diffprof.model.fix import Plan, PlanStep, SourceEdit
from diffprof.model.plain import clean
from diffprof.model.report import Report
from diffprof.model.units import place
from diffprof.views.tui.article import Article
from diffprof.views.tui.editor import editor_command, source_file
from diffprof.views.tui.filter_bar import Chips, FilterBar, Search
from diffprof.views.tui.finding_list import FindingList
from diffprof.views.tui.finding_page import finding_page
from diffprof.views.tui.finding_query import FindingIndex, Query
from diffprof.views.tui.styles import Writing
from diffprof.views.tui.table import TableView
from diffprof.views.verdict import headline_finding

_KEYS = {"analyzer": "a", "phase": "p", "grade": "g", "loop": "l"}
_FILTER = Binding.Group("Filter", compact=True)


class _Page(Article):
    """The page of a finding; what can be done with it stands in the footer while it is read."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "next(1)", "Next"),
        Binding("N", "next(-1)", "Previous"),
        Binding("o", "edit", "Editor"),
        Binding("y", "copy", "Copy"),
        Binding("escape", "back", "Back", key_display="esc"),
    ]

    @property
    def pane(self) -> FindingsPane:
        return self.query_ancestor(FindingsPane)

    def action_next(self, by: int) -> None:
        self.pane.action_next(by)

    def action_edit(self) -> None:
        self.pane.action_edit()

    def action_copy(self) -> None:
        self.pane.action_copy()

    def action_back(self) -> None:
        self.pane.action_back()


class FindingsPane(Container):
    """The tab of the findings."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("a", "filter('analyzer')", "Analyzer", group=_FILTER),
        Binding("p", "filter('phase')", "Phase", group=_FILTER),
        Binding("g", "filter('grade')", "Grade", group=_FILTER),
        Binding("l", "filter('loop')", "Loop", group=_FILTER),
        Binding("x", "clear", "Clear"),
        Binding("w", "what_if", "What-if"),
        Binding("y", "copy", "Copy"),
        Binding("o", "edit", "Editor", show=False),
        Binding("n", "next(1)", "Next finding", show=False),
        Binding("N", "next(-1)", "Previous finding", show=False),
        Binding("escape", "back", "Back", show=False),
    ]

    class WhatIf(Message):
        """Show the call without this finding."""

        def __init__(self, finding: Finding) -> None:
            super().__init__()
            self.finding = finding

    def __init__(self, report: Report, call_ms: float | None) -> None:
        """call_ms: length of the recorded call, where that is known."""
        super().__init__()
        self.steps: dict[str, PlanStep] = {}
        self.edits: tuple[SourceEdit, ...] = ()
        self.report = report
        self.call_ms = call_ms
        self.index = FindingIndex(report.findings)
        self.search = Query()
        self.alone = False
        """Whether the page of the current finding has the whole tab."""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:
        """Filters belong to the list."""
        return action not in ("filter", "clear") or not self.alone

    def compose(self) -> ComposeResult:
        choices = {name: self.index.choices(name) for name in _KEYS}
        yield FilterBar(_KEYS, choices, len(self.report.findings))
        with Vertical(id="findings"):
            yield FindingList(self.report.findings, empty=self._nothing())
            yield _Page()

    def on_mount(self) -> None:
        table = self.query_one(FindingList)
        if (first := headline_finding(self.report)) is not None:
            table.go_to(first)
        table.focus()
        # After the first screen: colouring source for the first time takes as long as the list.
        self.call_after_refresh(self._settled, table.row)

    def planned(self, plan: Plan) -> None:
        """The plan of fixes has been made: their code and diffs stand on the pages from now on."""
        self.steps = {step.fix: step for step in plan.steps}
        self.edits = plan.edits
        row = self.query_one(FindingList).row
        if row is not None and (row.fixes or (row.site is not None and row.site.user_code)):
            self._write(row)

    def _nothing(self) -> str:
        if self.report.unchecked:
            return (
                f"No finding; {len(self.report.unchecked)} rules had no evidence (7: what was not checked)."
            )
        return "Every rule was checked and nothing was found."

    # --- filters -------------------------------------------------------------------------------------

    def ask(self, query: Query) -> None:
        """Show what matches."""
        self.search = query
        table = self.query_one(FindingList)
        table.empty = (
            "No finding matches; in the list, x clears the filters." if query.active else self._nothing()
        )
        table.set_rows(self.index.matching(query))
        values = {name: getattr(query, name) for name in _KEYS}
        self.query_one(Chips).show(values, len(table.rows))

    def action_filter(self, name: str) -> None:
        self.ask(self.index.next_choice(self.search, name))

    def action_clear(self) -> None:
        self.query_one(Search).value = ""
        self.ask(Query())

    def action_search(self) -> None:
        self._show_alone(False)
        self.query_one(FilterBar).search()

    @on(Chips.Pressed)
    def _chip(self, event: Chips.Pressed) -> None:
        event.stop()
        self.action_filter(event.name)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self.search.text:
            self.ask(replace(self.search, text=event.value))

    @on(Search.Left)
    def _searched(self, event: Search.Left) -> None:
        event.stop()
        self.query_one(FindingList).focus()

    # --- the current finding -------------------------------------------------------------------------

    @on(TableView.Moved)
    def _moved(self, event: TableView.Moved) -> None:
        event.stop()
        if isinstance(event, TableView.Chosen):
            self._show_alone(True)
            self.query_one(Article).focus()
            return
        self._settled(event.row)

    def _settled(self, row: Finding | None) -> None:
        if self.is_attached and row is self.query_one(FindingList).row:
            self._write(row)

    def _write(self, row: Finding | None) -> None:
        page = (
            Writing()
            if row is None
            else finding_page(row, self.report.recording, self.call_ms, self.steps, self.edits)
        )
        self.query_one(Article).show(page)

    def open(self, finding: Finding) -> None:
        """Make a finding the current one, whatever the filters hide."""
        table = self.query_one(FindingList)
        if all(row is not finding for row in table.rows):
            self.action_clear()
        table.go_to(finding)
        table.focus()

    def action_next(self, by: int) -> None:
        self.query_one(FindingList).action_move(by)

    def action_back(self) -> None:
        self._show_alone(False)
        self.query_one(FindingList).focus()

    def _show_alone(self, alone: bool) -> None:
        """The page of the finding with or without the list."""
        if alone != self.alone:
            self.alone = alone
            for part in (FilterBar, FindingList):
                self.query_one(part).display = not alone
            self.query_one(Article).set_class(alone, "-alone")

    def action_what_if(self) -> None:
        if row := self.query_one(FindingList).row:
            self.post_message(self.WhatIf(row))

    def action_copy(self) -> None:
        row = self.query_one(FindingList).row
        if row:
            text = place(row.site) if row.site else clean(f"{row.rule} {row.name}: {row.message}")
            self.app.copy_to_clipboard(text)
            self.notify(f"Copied {text}", markup=False)

    def action_edit(self) -> None:
        """Open the current finding's source in the user's editor."""
        row = self.query_one(FindingList).row
        if row is None or row.site is None:
            self.notify("This finding is of the whole call; it has no line.", timeout=3)
        elif (file := source_file(row.site)) is None:
            self.notify(f"{row.site.file} is not on this machine.", severity="warning", markup=False)
        elif (command := editor_command(file, row.site.line)) is None:
            self.notify("No editor: set $EDITOR.", severity="warning")
        else:
            with self.app.suspend():
                subprocess.run(command, check=False)
            self.app.refresh()
