"""Data as HTML text."""

from __future__ import annotations

from html import escape

from diffprof.model.plain import clean, clean_lines


def text(value: object) -> str:
    """One line; whatever is in it shows as typed."""
    return escape(clean(value))


def prose(value: object) -> str:
    """Several lines; code between backticks is set as code."""
    return "<br>".join(map(_line, clean_lines(value)))


def _line(line: str) -> str:
    parts = line.split("`")
    if len(parts) % 2 == 0:
        return escape(line)
    return "".join(
        f"<code>{escape(part)}</code>" if number % 2 and part else escape(part)
        for number, part in enumerate(parts)
    )
