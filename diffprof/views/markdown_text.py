"""Text, code and tables in Markdown: all of them are data."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from diffprof.model.plain import clean

LIMIT = 60_000
"""Characters; GitHub refuses comments over 65,536."""
_SPECIAL = re.compile(r"[\\`*\[\]|~$]|(?<![^\W_])_|_(?![^\W_])")
"""Markup; an underscore inside a word is none."""
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def prose(text: object) -> str:
    """Data as running text: markup, HTML, mentions and references show as typed. Backticked code stays
    code."""
    parts = clean(text).split("`")
    if len(parts) % 2 == 0:
        shown = _escaped("`".join(parts))
    else:
        shown = "".join(code(part) if i % 2 and part else _escaped(part) for i, part in enumerate(parts))
    return re.sub(r"^(\s*\d*)([-+=#.)])(?=\s|$)", r"\1\\\2", shown)  # no list, no heading


def _escaped(text: str) -> str:
    escaped = _SPECIAL.sub(r"\\\g<0>", text.translate(_ENTITIES))
    # An empty comment keeps `@name` and `#1` from notifying people and linking issues.
    return re.sub(r"([@#])(?=\w)", r"\1<!-- -->", escaped)


def code(text: object) -> str:
    """Data as a code span, also inside a table."""
    shown = clean(text).replace("|", "\\|")
    if not shown.strip():
        return ""
    runs = [len(run) for run in re.findall(r"`+", shown)]
    fence = "`" * (max(runs, default=0) + 1)
    space = " " if shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{space}{shown}{space}{fence}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A GFM table; every cell is data."""
    lines = [" | ".join(map(prose, columns)), " | ".join("---" for _ in columns)]
    lines += [" | ".join(prose(cell) for cell in row) for row in rows]
    return "".join(f"| {line} |\n" for line in lines)
