"""`diffprof ladder`: the published optimizations one after the other, on this device."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import Any

import click

from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, say, stdout_to_stderr, terminal
from diffprof.cli.scan import make_options, target_options
from diffprof.views.ladder import FORMS


@click.command("ladder")
@click.argument("target")
@target_options
@click.option("--rung", "rungs", multiple=True, metavar="NAME", help="Only this rung; may be repeated.")
@format_option(FORMS)
@traces_option(written=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    target: str,
    device: str | None,
    rungs: tuple[str, ...],
    form: str,
    traces: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Climb the ladder of published optimizations: fp32, bf16, SDPA, compile, fused QKV, int8.

    On a simulated GPU the times and memory are predicted, elsewhere measured. Where the same was published,
    the figure and the error of the prediction stand beside it. --dtype is set by the rungs. The result is
    stored; `diffprof tensorboard` draws it.
    """
    from diffprof.model.ladder import save_ladder
    from diffprof.model.progress import progress_on
    from diffprof.model.runs import new_folder
    from diffprof.tuning.ladder import choose_rungs, climb
    from diffprof.views.ladder import render_ladder

    chosen = choose_rungs(rungs)
    wanted = make_options(**options)
    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.devices import resolve_device
        from diffprof.targets import resolve

        where = resolve_device(device)
        found = resolve(target)
        ladder = climb(found, where, wanted, chosen, lambda rung: progress.stage(f"rung {rung.name}"))
    screen = terminal()
    emit(render_ladder(ladder, form, width=screen.columns, colour=screen.colour))
    folder = new_folder(traces, f"{target}-ladder", now=datetime.datetime.now(datetime.UTC))
    say(f"Stored in {save_ladder(ladder, folder)}")
