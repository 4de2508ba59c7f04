"""`diffprof view`: look through a stored report in the terminal."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from diffprof.cli.options import traces_option
from diffprof.model.collection import leave_to_the_system, paused_collection
from diffprof.model.errors import UsageError
from diffprof.model.recording.source_text import shell


def need_terminal(instead: str) -> None:
    """Raises UsageError where there is no screen to draw on. instead: what to do then."""
    if not (sys.stdin.isatty() and sys.stdout and sys.stdout.isatty()) or os.environ.get("TERM") == "dumb":
        raise UsageError("The viewer needs a terminal, and this is none.", instead)


@click.command("view")
@click.argument("run", required=False)
@traces_option()
def command(run: str | None, traces: Path) -> None:
    """Look through a stored report: findings, timeline, kernels, graphs, fixes.

    RUN is as for `diffprof show`; without it, the newest run is opened. `?` lists the keys.
    """
    with paused_collection():
        from diffprof.judge.judging import load_judged
        from diffprof.model import runs

        try:
            report = load_judged(runs.find(traces, run))
        except UsageError:
            _refuse_alone(run, traces)
            raise
        own = traces
        if report.path and Path(report.path).resolve().parent != traces.resolve():
            traces = Path(report.path).parent  # the runs beside it, and where its fixes are stored
        need_terminal("`diffprof show` prints the report.")

        from diffprof.views.tui import view

    leave_to_the_system()  # the report stays as long as the viewer
    view(report, traces, own=own)


def _refuse_alone(run: str | None, traces: Path) -> None:
    """Raises UsageError where the run is the folder of a ladder or of predictions, which have no findings to
    look through."""
    from diffprof.model.ladder import LADDER_FILE
    from diffprof.model.prediction import PREDICTION_FILE

    for folder in (Path(run), traces / run) if run else ():
        told = f"`diffprof show {shell(str(run))}` prints it"
        if (folder / LADDER_FILE).is_file():
            hint = f"{told}, `diffprof tensorboard {shell(str(run))}` draws it."
            raise UsageError(f"{run} holds a ladder and no scan.", hint)
        if (folder / PREDICTION_FILE).is_file():
            raise UsageError(f"{run} holds predictions and no scan.", f"{told}.")
