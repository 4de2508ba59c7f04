"""Lists (runs, rules, targets, schedulers) as text, markdown or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LISTS = ("text", "json", "markdown")


def render_list(
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, object]],
    form: str,
    *,
    width: int | None = None,
    colour: bool = False,
    note: str = "",
) -> str:
    """columns: key -> heading, for text and markdown; JSON prints each row whole, `None` as null.

    An unknown value is an empty cell.
    """
    if form == "json":
        from diffprof.model.report import as_json

        return as_json(rows).decode()
    cells = [["" if row.get(key) is None else row[key] for key in columns] for row in rows]
    if form == "markdown":
        from diffprof.views.markdown_text import table

        return table(tuple(columns.values()), cells) + (f"\n{note}\n" if note else "")
    from diffprof.views.page import Page

    page = Page(width, colour=colour)
    page.table(tuple(columns.values()), cells)
    if note:
        page.flow(("dim", note))
    return page.text()
