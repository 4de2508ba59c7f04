"""The viewer in the terminal. It takes a report, never a pipeline; needs a terminal and Textual."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diffprof.model.collection import leave_to_the_system

if TYPE_CHECKING:
    from diffprof.model.report import Report
    from diffprof.model.sweep import SweepRow
    from diffprof.views.tui.app import Viewer
    from diffprof.views.tui.job import Ended


def view(report: Report, traces: Path, *, own: Path | None = None) -> None:
    """Show a report until the user leaves. traces: the folder of the runs that can be opened from there; own:
    that of the user's own runs, if it is another."""
    from diffprof.views.tui.app import Viewer
    from diffprof.views.tui.themes import settings_file

    _run(Viewer(report, traces, own=own, settings=settings_file(), settled=leave_to_the_system))


def watch_job(args: Sequence[str], title: str, traces: Path) -> Ended | None:
    """Run a diffprof command that prints a report as JSON, show its progress, then the report.

    How it ended; None when the viewer was left before. The command is stopped then.
    """
    from diffprof.views.tui.app import Viewer
    from diffprof.views.tui.job import Job
    from diffprof.views.tui.themes import settings_file

    job = Job(args, title)
    return _run(Viewer(None, traces, job=job, settings=settings_file(), settled=leave_to_the_system))


def view_sweep(rows: Sequence[SweepRow], traces: Path) -> None:
    """Show the rows of a sweep until the user leaves."""
    from diffprof.views.tui.app import Viewer
    from diffprof.views.tui.themes import settings_file

    _run(Viewer(None, traces, sweep=rows, settings=settings_file()))


def _run(viewer: Viewer) -> Ended | None:
    """Raises RuntimeError when the viewer broke; Textual has printed where."""
    ended = viewer.run()
    if viewer.return_code:
        raise RuntimeError("the viewer broke")
    return ended
