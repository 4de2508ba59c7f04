"""A page of the documentation as a terminal shows it: names in tables stay whole where the width allows."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import ClassVar

from rich.console import Console, ConsoleOptions
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table
from rich.text import Text

_GAP = 2
"""Cells between two columns, and both edges together."""
_LEAST = 10
"""Cells that another column keeps before names in the first are folded."""


def drawn(text: str, columns: int, *, colour: bool) -> str:
    """Markdown in so many cells."""
    console = Console(width=columns, force_terminal=colour, no_color=not colour)
    with console.capture() as captured:
        console.print(_Page(_code_wrapped(re.sub(r"<!--.*?-->\n?", "", text), columns - 2)))
    return captured.get()


def _code_wrapped(text: str, columns: int) -> str:
    """Lines of code that are longer go on in lines that are indented further."""
    lines: list[str] = []
    code = False
    for line in text.split("\n"):
        code ^= line.startswith("```")
        if not code or len(line) <= columns:
            lines.append(line)
            continue
        deeper = " " * (len(line) - len(line.lstrip()) + 4)
        lines += textwrap.wrap(
            line, columns, subsequent_indent=deeper, break_on_hyphens=False, replace_whitespace=False
        )
    return "\n".join(lines)


class _FittedTable(TableElement):
    """A table whose words are not cut: what has no room goes on in the next line."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            held = [[_plain(column.header), *map(_plain, column.cells)] for column in table.columns]
            widths = fitted(held, options.max_width - _GAP * len(held))
            for column, width in zip(table.columns, widths, strict=True):
                column.overflow, column.width = "fold", width
            yield table


class _Page(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "table_open": _FittedTable,
    }


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def fitted(columns: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of columns, given their cells: each its longest word, and what is left of the room to where
    cells take most lines. Where words have no room together, the longest ones get less, names in the first
    column last."""
    whole = [max(map(len, cells), default=1) or 1 for cells in columns]
    widths = [max((len(word) for cell in cells for word in cell.split()), default=1) for cells in columns]
    while sum(widths) > room and max(widths) > 1:
        others = max(widths[1:], default=0)
        widths[widths.index(others, 1) if others > _LEAST else widths.index(max(widths))] -= 1
    for _ in range(room - sum(widths)):
        lines = [full / width for full, width in zip(whole, widths, strict=True)]
        if max(lines) <= 1:
            break
        widths[lines.index(max(lines))] += 1
    return widths
