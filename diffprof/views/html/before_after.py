"""A run and the scan after its fixes, side by side."""

from __future__ import annotations

from pathlib import Path

from diffprof.judge.comparing import compare
from diffprof.judge.judging import load_judged
from diffprof.model.errors import DiffprofError
from diffprof.model.report import Report
from diffprof.views.comparison import figure_rows
from diffprof.views.table import Table


def comparison_table(report: Report) -> Table | None:
    """The figures of both; None where nothing was applied or the run after it is no longer there. Where that
    can't be read, the note says why."""
    if report.after is None or report.path is None:
        return None
    folder = Path(report.path).expanduser().parent / report.after
    if not folder.is_dir():
        return None
    columns = ("figure", "before", "after", "change")
    try:
        found = compare(report, load_judged(folder))
    except DiffprofError as error:
        return Table("Before and after", columns, (), error.what)
    return Table("Before and after", columns, figure_rows(found), found.headline)
