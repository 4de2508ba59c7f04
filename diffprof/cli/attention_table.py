"""`diffprof attention-table`: every distinct attention of a call under every kernel of the device."""

from __future__ import annotations

import sys
from typing import Any

import click

from diffprof.cli.options import format_option
from diffprof.cli.output import emit, stdout_to_stderr, terminal
from diffprof.cli.scan import make_options, target_options


@click.command("attention-table")
@click.argument("target")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@target_options
@format_option(("text", "json", "markdown"))
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    target: str, args: tuple[str, ...], device: str | None, form: str, quiet: bool, **options: Any
) -> None:
    """Time every distinct attention of a target's call under every kernel that the device has for it.

    On a simulated GPU the times are predicted. JSON has the line that sets each.
    """
    from diffprof.model.progress import progress_on

    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.scanning.scan import scan_target

        report = scan_target(
            target,
            args=args,
            device=device,
            options=make_options(**options),
            analyzers=("kernels", "setup"),
            progress=progress,
        )
    from diffprof.views.attention import render_attention

    screen = terminal()
    emit(render_attention(report.recording, form, width=screen.columns, colour=screen.colour))
