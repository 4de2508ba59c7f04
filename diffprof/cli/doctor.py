"""`diffprof doctor`: what is here, and what is missing for which command."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, stdout_to_stderr, terminal
from diffprof.views.listing import LISTS


@click.command("doctor")
@format_option(LISTS)
@traces_option()
def command(form: str, traces: Path) -> None:
    """Say what this machine has of what diffprof uses: versions, GPU, CUPTI, permissions, caches, tools.

    A line each, with what needs it and how to get it. `missing`: a command does not work; `note`: one works
    less well, or does without. Ends with 0 whatever is missing.
    """
    from diffprof.guard.doctor import Sign, examine
    from diffprof.views.listing import render_list

    with stdout_to_stderr():
        signs = list(examine(traces))
    screen = terminal()
    columns = {name: name.replace("_", " ") for name in Sign._fields}
    rows = [sign._asdict() for sign in signs]
    emit(render_list(columns, rows, form, width=screen.columns, colour=screen.colour))
