"""Data as text that can't act: what every view runs names, messages and source lines through."""

from __future__ import annotations

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Invisible, but part of ordinary words and emoji."""


def _shown(char: str) -> str:
    if char in _JOINERS or unicodedata.category(char) not in _HIDDEN:
        return char
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def clean(text: object) -> str:
    r"""One line of text without control, format or surrogate characters; those are shown as `\x1b`, `\n`,
    `\u202e`."""
    line = str(text)
    if line.isprintable():
        return line
    return "".join(map(_shown, line))


def clean_lines(text: object) -> list[str]:
    """Text of several lines, each clean; tabs become four spaces."""
    return [clean(line) for line in str(text).expandtabs(4).splitlines()] or [""]


def width(text: str) -> int:
    """Terminal cells that a clean text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, cells: int) -> str:
    """At most that many cells, with an ellipsis where something was cut."""
    if width(text) <= cells:
        return text
    kept = text[: max(cells - 1, 0)]
    while kept and width(kept) > cells - 1:
        kept = kept[:-1]
    return kept + "…"


def pad(text: str, cells: int, *, right: bool = False) -> str:
    """Filled with spaces to that many cells."""
    space = " " * max(cells - width(text), 0)
    return space + text if right else text + space
