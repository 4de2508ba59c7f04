"""`diffprof show`: a stored report, judged again by the rules of this version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffprof.cli.options import format_option, redact_option, traces_option, verbose_option
from diffprof.cli.output import Terminal, emit, terminal
from diffprof.model.errors import UsageError
from diffprof.views import FORMATS

if TYPE_CHECKING:
    from diffprof.model.ladder import Ladder


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
    this version. The folder of a ladder shows its table.
    """
    from diffprof.judge.judging import load_judged
    from diffprof.model.redacting import to_send
    from diffprof.scanning import runs
    from diffprof.views import render

    screen = terminal()
    if run is not None and (ladder := _ladder(run, traces)) is not None:
        emit(_render_ladder(ladder, form, screen))
        return
    report = to_send(load_judged(runs.find(traces, run)), form, redact=redact)
    emit(render(report, form, columns=screen.columns, colour=screen.colour, verbose=verbose))


def _ladder(key: str, traces: Path) -> Ladder | None:
    from diffprof.model.ladder import load_ladder

    found = (load_ladder(folder) for folder in (Path(key), traces / key) if folder.is_dir())
    return next((ladder for ladder in found if ladder is not None), None)


def _render_ladder(ladder: Ladder, form: str, screen: Terminal) -> str:
    from diffprof.views.ladder import FORMS, render_ladder

    if form not in FORMS:
        raise UsageError(f"A ladder has no {form} form.", f"Ask for {', '.join(FORMS)}.")
    return render_ladder(ladder, form, width=screen.columns, colour=screen.colour)
