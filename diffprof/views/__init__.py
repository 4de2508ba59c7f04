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
    a screen unless `verbose`.

    Raises UsageError for another format.
    """
    if form not in FORMATS:
        from diffprof.model.errors import UsageError

        raise UsageError(f"There is no format {form!r}.", f"There are {', '.join(FORMATS)}.")
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


def one_line(report: Report) -> str:
    """What `repr` shows of a report: the answer, or what became of its fixes."""
    from diffprof.model.plain import clean
    from diffprof.views.tuning import tried
    from diffprof.views.verdict import verdict

    place = f" Stored in {report.path}." if report.path else ""
    said = verdict(report).headline
    if report.outcomes is not None:
        kept = ", ".join(outcome.fix for outcome in report.outcomes if outcome.stays)
        said = f"{tried(report.outcomes)}{f' Kept: {kept}.' if kept else ''}"
    return clean(f"<Report {report.recording.target.spec}: {said}{place}>")
