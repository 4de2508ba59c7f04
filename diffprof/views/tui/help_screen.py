"""Every key, by place."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen

from diffprof.views.tui.article import Article
from diffprof.views.tui.styles import Paragraph, Writing, styled

KEYS: dict[str, tuple[tuple[str, str], ...]] = {
    "Everywhere": (
        ("1 … 8", "open a tab; a click does the same"),
        ("Tab, Shift+Tab", "next, previous part of the screen"),
        ("v", "the verdict in full; again: a line each"),
        ("e", "export: the report as an HTML page, written where the viewer was started"),
        ("] [", "next, previous pipeline, of a script that calls several"),
        ("t", "light or dark"),
        ("Ctrl+P", "command palette: tabs, findings, themes"),
        ("?", "this page"),
        ("q", "quit"),
    ),
    "Lists": (
        ("↑ ↓, j k", "move; PgUp, PgDn, Home, End"),
        ("Enter", "open; a double click does the same"),
        ("s, S", "sort by the next column; turn the order; a click on a heading"),
        ("/", "search; Enter goes back to the list, Esc clears"),
        ("Esc", "back"),
    ),
    "1 Findings": (
        ("a p g l", "filter by analyzer, phase, grade, loop; a click on the name"),
        ("x", "clear the filters"),
        ("n, N", "next, previous finding, also while reading one"),
        ("w", "what-if: the timeline without this finding"),
        ("y, o", "copy file:line, or what was found; open the source in $EDITOR"),
    ),
    "2 Timeline": (
        ("← →", "move the cursor"),
        ("+ -, ↑ ↓", "zoom around the cursor; the wheel does the same"),
        ("h l, Shift+← →", "pan; drag, or Shift and the wheel"),
        ("0, z", "the whole call; the step under the cursor"),
        ("n, N", "next, previous wait of the host"),
        ("Enter", "open the finding under the cursor"),
        ("w", "as recorded again"),
    ),
    "3 Kernels": (
        ("g", "group by kernel, op, shape, family, module, phase"),
        ("Enter, Backspace", "into a group and out of it"),
        ("+ -", "levels of a module's path"),
    ),
    "4 Graphs": (
        ("Space, ← →", "fold and unfold"),
        ("f", "fold or unfold all"),
        ("d", "to the details"),
    ),
    "5 Quantization": (("c", "the choice as code"),),
    "6 Plan": (
        ("Space", "check or uncheck a fix"),
        ("a, r", "check all or none; as planned"),
        ("A", "apply what is checked: each is tried, measured, kept or undone"),
        ("Esc", "stop applying; what was tried until then is kept"),
        ("c", "compare the run with the scan of what was kept"),
    ),
    "8 Runs": (
        ("Enter", "open a run"),
        ("Space, c", "mark two, compare them"),
        ("r", "read the folder again"),
    ),
}


class HelpScreen(Screen[None]):
    """Closed by Escape, `q`, `?` or Enter."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,question_mark,enter", "dismiss", "Close")]

    def compose(self) -> ComposeResult:
        page = Writing()
        page.flow(("strong", "Keys"), ("muted", "   Esc closes"))
        for place, keys in KEYS.items():
            page.heading(place)
            for key, what in keys:
                page.blocks.append(Paragraph(styled(what), styled(("accent", f"  {key:<17}"))))
        with Container():
            yield Article(page)

    def on_mount(self) -> None:
        self.query_one(Article).focus()
