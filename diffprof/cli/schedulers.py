"""`diffprof schedulers`: one target, every scheduler that takes its call."""

from __future__ import annotations

import sys
from typing import Any

import click

from diffprof.cli.options import format_option
from diffprof.cli.output import emit, stdout_to_stderr, terminal
from diffprof.cli.scan import make_options, target_options
from diffprof.views.listing import LISTS


@click.command("schedulers")
@click.argument("target")
@target_options
@format_option(LISTS)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(target: str, device: str | None, form: str, quiet: bool, **options: Any) -> None:
    """Scan a target once with each scheduler of diffusers that accepts its call.

    Prints the blocking operations in the loop, per step, and outside it; nothing is stored.
    """
    from diffprof.model.progress import progress_on

    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.scanning.scan import scheduler_table

        rows = scheduler_table(target, device=device, options=make_options(**options), progress=progress)
    from diffprof.views.schedulers import render_schedulers

    screen = terminal()
    emit(render_schedulers(rows, form, width=screen.columns, colour=screen.colour))
