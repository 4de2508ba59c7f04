"""A section that another package's analyzer recorded, as that analyzer says that it is listed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from diffprof.model.analyzer import Column as Listed
from diffprof.model.analyzer import Listing, cell
from diffprof.views.tui.table import TableColumn, TableView

_CELLS = 12
"""Least width of a column."""


def listed_table(listing: Listing, rows: Sequence[object]) -> TableView[object]:
    """One row a row of the section; each column can be sorted by."""
    columns = [_column(each, last=each is listing.columns[-1]) for each in listing.columns]
    return TableView[Any](columns, rows, empty=f"{listing.title}: none.")


def _column(listed: Listed, *, last: bool) -> TableColumn[object]:
    show = partial(_shown, field=listed.field)
    cells = max(_CELLS, len(listed.title))
    return TableColumn(listed.title, show, cells, grow=last, right=listed.right, value=show)


def _shown(row: object, field: str) -> str:
    return cell(row, field)
