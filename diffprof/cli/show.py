"""`diffprof show`: a stored report, judged again by the rules of this version."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.options import format_option, traces_option, verbose_option
from diffprof.cli.output import emit, terminal
from diffprof.views import FORMATS


@click.command("show")
@click.argument("run", required=False)
@format_option(FORMATS)
@verbose_option()
@traces_option()
def command(run: str | None, form: str, verbose: bool, traces: Path) -> None:
    """Show a stored report.

    RUN is a folder, a report file, or a run's name or any part of it that only one has; without it, the
    newest run is shown. Findings are derived again with the rules of this version.
    """
    from diffprof import runs
    from diffprof.report import judge_again, load_report
    from diffprof.views import render

    report = judge_again(load_report(runs.find(traces, run)))
    screen = terminal()
    emit(render(report, form, columns=screen.columns, colour=screen.colour, chains=verbose))
