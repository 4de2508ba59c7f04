"""`diffprof runs`: what is stored."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, say, terminal
from diffprof.views.listing import LISTS

_COLUMNS = {
    "run": "run",
    "target": "target",
    "device": "device",
    "findings": "findings",
    "in_loop": "of them in loop",
    "age": "age",
    "note": "note",
}


@click.command("runs")
@format_option(LISTS)
@traces_option()
def command(form: str, traces: Path) -> None:
    """List the stored runs, newest first.

    Findings are counted as they were judged when the run was stored.
    """
    from diffprof.runs import list_runs
    from diffprof.views.listing import render_list
    from diffprof.views.words import age

    now = datetime.datetime.now(datetime.UTC)
    rows = [
        {
            "run": run.name,
            "path": str(run.folder),
            "target": run.target or None,
            "device": run.device or None,
            "created": run.created or None,
            "age": age(run.created, now) if run.created else None,
            "in_loop": run.in_loop,
            "findings": run.findings,
            "partial": run.partial,
            "error": run.error,
            "note": f"unreadable: {run.error}" if run.error else "partial" if run.partial else None,
        }
        for run in list_runs(traces)
    ]
    if not rows and form != "json":
        say(f"No run is stored in {traces}. `diffprof scan TARGET` makes one.")
        return
    screen = terminal()
    emit(render_list(_COLUMNS, rows, form, width=screen.columns, colour=screen.colour))
