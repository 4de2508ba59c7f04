"""Views: functions of a finished report that compute nothing and return text."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffprof.model.report import Report

FORMATS = ("text", "json", "markdown", "github", "sarif", "html")


def render(
    report: Report,
    form: str,
    *,
    columns: int | None = None,
    colour: bool = False,
    verbose: bool = False,
) -> str:
    """A report in one of FORMATS, ending in a newline. The other arguments matter to `text` only, which fits
    a screen unless `verbose`."""
    if form == "json":
        from diffprof.model.report import to_json

        return to_json(report).decode()
    if form == "text" and verbose:
        from diffprof.views.text import render_text

        return render_text(report, columns=columns, colour=colour, chains=True)
    if form == "text":
        from diffprof.views.brief import render_brief

        return render_brief(report, columns=columns, colour=colour)
    view = import_module(f"diffprof.views.{form}")
    return getattr(view, f"render_{form}")(report)
