"""Lines of terminal text: wrapping by cells, styles only where colour is wanted, data made harmless."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from diffprof.views.plain import clean, clean_lines, cut, pad, width

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


class Page:
    """Collects lines. Everything added is cleaned here, so that no caller can forget to."""

    def __init__(self, columns: int = 80, *, colour: bool = False) -> None:
        self.columns = max(columns, 40)
        self.colour = colour
        self.lines: list[str] = []

    def text(self) -> str:
        """All lines, each ended by a newline; trailing blanks dropped."""
        return "".join(f"{line.rstrip()}\n" for line in self.lines)

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

    def flow(self, *spans: Span, indent: int = 0, label: str = "", label_style: str = "dim") -> None:
        """Words filled into lines; a word longer than a line keeps its line to itself, whole.

        label: stands before the first line; the others are indented to its right. A line break in the
        text starts a new line.
        """
        lead = pad(clean(label), 9) if label else ""
        margin = indent + len(lead)
        head = " " * indent + self._styled((label_style, lead)) if lead else " " * indent
        room = max(self.columns - margin, 20)
        words: list[tuple[str, str]] = []
        lines: list[str] = []
        used = 0

        def end_line() -> None:
            nonlocal used
            lines.append(self._joined(words))
            words.clear()
            used = 0

        for span in spans:
            style, text = span if isinstance(span, tuple) else ("", span)
            for number, paragraph in enumerate(clean_lines(text)):
                if number:
                    end_line()
                for word in paragraph.split(" "):
                    if not word:
                        continue
                    cells = width(word)
                    if used and used + 1 + cells > room:
                        end_line()
                    words.append((style, word))
                    used += cells + (1 if used else 0)
        end_line()
        for number, line in enumerate(lines):
            self.lines.append((head if number == 0 else " " * margin) + line)

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
        """Columns as wide as their widest cell; numbers to the right. The last column may run over."""
        cells = [[clean(value) for value in row] for row in rows]
        right = [
            bool(cells) and all(_numeric(row[i]) for row in cells if row[i]) for i in range(len(columns))
        ]
        widths = [max([width(head), *(width(row[i]) for row in cells)]) for i, head in enumerate(columns)]

        def joined(row: Sequence[str]) -> str:
            last = len(row) - 1
            return "  ".join(
                value if i == last and not right[i] else pad(value, widths[i], right=right[i])
                for i, value in enumerate(row)
            )

        self.raw(("bold", joined([clean(head) for head in columns])), indent=indent)
        for row in cells:
            self.raw(joined(row), indent=indent)

    def cut(self, text: str, *, indent: int = 0) -> str:
        """A clean line that fits."""
        return cut(clean(text), self.columns - indent)


def _numeric(cell: str) -> bool:
    """A number, with a unit or without: `1,234`, `2.57 B`, `81.0%`."""
    return _NUMBER.fullmatch(cell) is not None
