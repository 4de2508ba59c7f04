"""`diffprof runs`: what is stored."""

from __future__ import annotations

import datetime
from pathlib import Path

import click

from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, say, terminal
from diffprof.views.listing import LISTS


@click.command("runs")
@click.option("--clean", is_flag=True, help="Remove what commands that were killed have left.")
@format_option(LISTS)
@traces_option()
def command(clean: bool, form: str, traces: Path) -> None:
    """List the stored runs, newest first.

    Findings are counted as they were judged when the run was stored.
    """
    from diffprof.model.runs import list_stored
    from diffprof.views.run_list import run_list

    _leftovers(traces, clean=clean)
    runs = list_stored(traces)
    if not runs and form != "json":
        say(f"No run is stored in {traces}. `diffprof scan TARGET` makes one.")
        return
    screen = terminal()
    now = datetime.datetime.now(datetime.UTC)
    emit(run_list(runs, form, now, columns=screen.columns, colour=screen.colour))


def _leftovers(traces: Path, *, clean: bool) -> None:
    """Say what no run is made of, and remove it if asked to."""
    from diffprof.model.runs import leftovers, remove

    left = leftovers(traces)
    gone = [each for each in left if clean and remove(each)]
    for each in gone:
        say(f"removed {each.path}")
    for each in left:
        if each in gone:
            continue
        what = "is not whole" if each.path.suffix == ".part" else "holds no report"
        more = ", and files that are not diffprof's; look into it" if each.foreign else ""
        say(f"{each.path} {what}: a command that wrote it was ended{more}.")
    if not clean and any(not each.foreign for each in left):
        say("`diffprof runs --clean` removes that.")
