"""`diffprof show`: a stored report, judged again by the rules of this version."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.options import format_option, redact_option, traces_option, verbose_option
from diffprof.cli.output import emit, terminal
from diffprof.views import FORMATS


@click.command("show")
@click.argument("run", required=False)
@format_option(FORMATS)
@verbose_option()
@redact_option()
@traces_option()
def command(run: str | None, form: str, verbose: bool, redact: bool, traces: Path) -> None:
    """Show a stored report.

    RUN is a folder, a report file, a target, of which the newest run is meant, or a run's name or any part of
    it that only one has; without it, the newest run is shown. Findings are derived again with the rules of
    this version. The folder of a ladder or of predictions shows its table.
    """
    from diffprof.judge.judging import load_judged
    from diffprof.model import runs
    from diffprof.model.redacting import to_send
    from diffprof.views import render
    from diffprof.views.alone import render_alone

    screen = terminal()
    for folder in filter(Path.is_dir, (Path(run), traces / run) if run is not None else ()):
        shown = render_alone(folder, form, width=screen.columns, colour=screen.colour)
        if shown is not None:
            emit(shown)
            return
    report = to_send(load_judged(runs.find(traces, run)), form, redact=redact)
    emit(render(report, form, columns=screen.columns, colour=screen.colour, verbose=verbose))
