"""`diffprof runs`: what is stored."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, say, terminal
from diffprof.views.listing import LISTS


@click.command("runs")
@format_option(LISTS)
@traces_option()
def command(form: str, traces: Path) -> None:
    """List the stored runs, newest first.

    Findings are counted as they were judged when the run was stored.
    """
    from diffprof.scanning.runs import list_runs
    from diffprof.views.run_list import run_list

    runs = tuple(list_runs(traces))
    if not runs and form != "json":
        say(f"No run is stored in {traces}. `diffprof scan TARGET` makes one.")
        return
    screen = terminal()
    now = datetime.datetime.now(datetime.UTC)
    emit(run_list(runs, form, now, columns=screen.columns, colour=screen.colour))
