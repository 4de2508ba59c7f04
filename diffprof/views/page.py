"""Lines of terminal text: wrapping by cells, styles only where colour is wanted, data made harmless.

On a screen every line fits: long words and cells go on in the next line, lines of code are cut. Elsewhere
(pipes, files) only prose is filled, and a line of data stays one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from diffprof.model.plain import clean, clean_lines, cut, pad, width

Span = str | tuple[str, str]
"""Text, or (style, text)."""

_NUMBER = re.compile(r"[-+]?\d[\d.,]*(e-?\d+)?( ?[^\W\d]{1,2}| ?%)?")
_CODES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
    "heading": "1;4",
    "code": "1;36",
    "mark": "1;33",
}


_NARROWEST = 40
_PIPED = 80
_PROSE = 120
"""Cells: the narrowest screen that is fitted, the width where there is none, the longest line of prose."""
_FOLDER = re.compile(r".*/")
_MARK = re.compile(r".*[/._,:=(-]")
_COMMAND = re.compile(r"^((?:\s|\x1b\[[\d;]*m)*):(?=:)")
"""How a line begins that GitHub's runner obeys, such as `::error::`: words are wrapped there too. Its first
colon becomes a ratio sign, which looks the same and is as wide."""


class Page:
    """Collects lines. Everything added is cleaned here, so that no caller can forget to.

    columns: cells of the screen, or None where there is none.
    """

    def __init__(self, columns: int | None = None, *, colour: bool = False) -> None:
        self.columns = None if columns is None else max(columns, _NARROWEST)
        self.colour = colour
        self.lines: list[str] = []

    def text(self) -> str:
        """All lines, each ended by a newline; trailing blanks dropped, and none a command to a CI log."""
        return "".join(_COMMAND.sub("\\1\u2236", line.rstrip()) + "\n" for line in self.lines)

    def blank(self) -> None:
        if self.lines and self.lines[-1]:
            self.lines.append("")

    def _styled(self, span: Span) -> str:
        style, text = span if isinstance(span, tuple) else ("", span)
        shown = clean(text)
        if not (self.colour and style and shown):
            return shown
        return f"\x1b[{_CODES[style]}m{shown}\x1b[0m"

    def raw(self, *spans: Span, indent: int = 0) -> None:
        """One line as it is, never wrapped or cut."""
        self.lines.append(" " * indent + "".join(map(self._styled, spans)))

    def whole(self, *spans: Span, indent: int = 0) -> None:
        """One line of data, such as a place in a file; on a screen where it does not fit, several."""
        line = "".join(clean(span[1] if isinstance(span, tuple) else span) for span in spans)
        if self.columns is None or indent + width(line) <= self.columns:
            self.raw(*spans, indent=indent)
        else:
            self.flow(*spans, indent=indent)

    def code(self, number: Span, text: Span, *, indent: int = 0) -> None:
        """A line of code after its number; cut on a screen where it does not fit."""
        style, shown = text if isinstance(text, tuple) else ("", text)
        if self.columns is not None:
            lead = indent + width(clean(number[1] if isinstance(number, tuple) else number))
            shown = cut(clean(shown), self.columns - lead)
        self.raw(number, (style, shown), indent=indent)

    def flow(
        self, *spans: Span, indent: int = 0, label: str = "", label_style: str = "dim", hanging: int = 0
    ) -> None:
        """Words filled into lines. A word longer than a line keeps its line to itself; on a screen it goes on
        in the next.

        label: stands before the first line; the others are indented to its right. A line break in the
        text starts a new line, never at the margin: only our own lines begin there. hanging: how much
        further the others are indented.
        """
        lead = pad(clean(label), 9) if label else ""
        margin = indent + len(lead)
        head = " " * indent + self._styled((label_style, lead)) if lead else " " * indent
        parts = [span if isinstance(span, tuple) else ("", span) for span in spans]
        if not margin and any(len(clean_lines(text)) > 1 for _, text in parts):
            hanging = max(hanging, 2)
        room = max(min(self.columns or _PIPED, _PROSE) - margin - hanging, 20)
        words: list[tuple[str, str]] = []
        lines: list[str] = []
        used = 0

        def end_line() -> None:
            nonlocal used
            lines.append(self._joined(words))
            words.clear()
            used = 0

        for style, text in parts:
            for number, paragraph in enumerate(clean_lines(text)):
                if number:
                    end_line()
                for word in paragraph.split(" "):
                    if not word:
                        continue
                    if used and used + 1 + width(word) > room:
                        end_line()
                    *ended, word = pieces(word, room) if self.columns is not None else [word]
                    for piece in ended:
                        words.append((style, piece))
                        end_line()
                    words.append((style, word))
                    used += width(word) + (1 if used else 0)
        end_line()
        for number, line in enumerate(lines):
            self.lines.append((head if number == 0 else " " * (margin + hanging)) + line)

    def _joined(self, words: Sequence[tuple[str, str]]) -> str:
        if not self.colour:
            return " ".join(word for _, word in words)
        runs: list[tuple[str, str]] = []
        for style, word in words:
            if runs and runs[-1][0] == style:
                runs[-1] = (style, f"{runs[-1][1]} {word}")
            else:
                runs.append((style, word))
        return " ".join(map(self._styled, runs))

    def heading(self, text: str) -> None:
        self.blank()
        self.raw(("heading", text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, indent: int = 0) -> None:
        """Columns as wide as their widest cell; numbers to the right. The last column may run over.

        On a screen that is too narrow the widest columns are narrowed and their cells go on below; where
        little would be left of them, each row becomes lines of `heading value`.
        """
        cells = [[clean(value) for value in row] for row in rows]
        heads = [clean(head) for head in columns]
        right = [
            bool(cells) and all(_numeric(row[i]) for row in cells if row[i]) for i in range(len(columns))
        ]
        widths = [max([width(head), *(width(row[i]) for row in cells)]) for i, head in enumerate(heads)]
        if self.columns is not None:
            room = self.columns - indent - 2 * (len(widths) - 1)
            narrowed = _narrowed(widths, room)
            if any(now < min(before, _LEGIBLE) for now, before in zip(narrowed, widths, strict=True)):
                for row in cells:
                    parts = [
                        f"{head} {value}".strip() for head, value in zip(heads, row, strict=True) if value
                    ]
                    self.flow("; ".join(parts), indent=indent, hanging=2)
                return
            widths = narrowed

        def add(row: Sequence[str], style: str = "") -> None:
            parts = [
                pieces(value, widths[i]) if self.columns is not None else [value]
                for i, value in enumerate(row)
            ]
            last = len(row) - 1
            for line in zip_longest(*parts, fillvalue=""):
                shown = "  ".join(
                    value if i == last and not right[i] else pad(value, widths[i], right=right[i])
                    for i, value in enumerate(line)
                )
                self.raw((style, shown), indent=indent)

        add(heads, "bold")
        for row in cells:
            add(row)


_LEGIBLE = 12
"""Cells that a column of a table keeps."""


def _narrowed(widths: Sequence[int], room: int) -> list[int]:
    """Widths of columns that together take `room` at most; only the widest lose."""
    cap = min(max(widths, default=0), max(room, 1))
    while cap > 1 and sum(min(each, cap) for each in widths) > room:
        cap -= 1
    return [min(each, cap) for each in widths]


def pieces(text: str, cells: int) -> list[str]:
    """A clean text in lines of so many cells: broken at spaces, else after a `/` or another mark, else
    anywhere."""
    found = []
    at = 0
    while len(text) - at > 4 * cells or width(text[at:]) > cells:
        part = text[at : at + cells]
        while width(part) > cells and len(part) > 1:
            part = part[:-1]
        if not text.startswith(" ", at + len(part)) and at + len(part) < len(text):
            part = part.rpartition(" ")[0].rstrip(" ") or _ended_at_mark(part)
        found.append(part.rstrip(" "))
        at += len(part)
        while text.startswith(" ", at):
            at += 1
    return [*found, text[at:]]


def _ended_at_mark(word: str) -> str:
    for marks in (_FOLDER, _MARK):
        ended = marks.match(word)
        if ended and 2 * len(ended.group()) > len(word):
            return ended.group()
    return word


def _numeric(cell: str) -> bool:
    """A number, with a unit or without: `1,234`, `2.57 B`, `81.0%`."""
    return _NUMBER.fullmatch(cell) is not None
