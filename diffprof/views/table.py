"""A table in a neutral form that every view draws its own way."""

from __future__ import annotations

import msgspec

MOST_ROWS = 12


class Table(msgspec.Struct, frozen=True):
    """Cells are text; the view cleans and escapes them. note: how to read it, or what is left out."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
