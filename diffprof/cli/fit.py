"""`diffprof fit`: will it fit, how fast, and with which code."""

from __future__ import annotations

import datetime
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from diffprof.cli.options import NewFile, format_option, traces_option
from diffprof.cli.output import emit, say, stdout_to_stderr, terminal
from diffprof.cli.scan import SHEETS, make_options, target_options
from diffprof.model.errors import UsageError
from diffprof.model.recording.source_text import shell

_SIZE = re.compile(r"(?i)([\d.]+)\s*(tib|tb|gib|gb|mib|mb)?")
_BYTES = {"tib": 2**40, "tb": 1e12, "gib": 2**30, "gb": 1e9, "mib": 2**20, "mb": 1e6}


def gib_of(text: str | None, option: str) -> float | None:
    """`16GiB`, `16`, `12000MB` in GiB. Raises UsageError for anything else."""
    if text is None:
        return None
    found = _SIZE.fullmatch(text.strip())
    if found is None or not found[1].replace(".", "", 1).isdecimal():
        raise UsageError(f"{option} {text!r} is no size.", f"Write it as {option} 16GiB.")
    return float(found[1]) * _BYTES[(found[2] or "gib").lower()] / 2**30


DEFAULT = "rtx4090"
"""The GPU that is asked about where none is named."""

_NEEDED = ("pairs", "no_weights")
"""What `make_options` has no default for."""


@click.command("fit")
@click.argument("target")
@partial(target_options, device=f"{SHEETS}; `cuda`: the GPU here.  [default: {DEFAULT}]")
@click.option("--memory", metavar="SIZE", help="Limit in place of the GPU's memory, such as 16GiB.")
@click.option("--host-memory", metavar="SIZE", help="Host memory for weights, such as 32GiB.")
@click.option("--lossy", is_flag=True, help="Take the fastest, whatever the picture loses.")
@click.option(
    "--check",
    is_flag=True,
    help="Run the code of each recipe that is listed and fits on a small copy of the pipeline.",
)
@click.option(
    "--write",
    "written",
    metavar="FILE",
    type=NewFile(),
    help="Check, and write the code of the one that is taken.",
)
@click.option("--all", "everything", is_flag=True, help="List every recipe, also those that do not fit.")
@format_option(("text", "json", "markdown"))
@traces_option(written=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    target: str,
    device: str | None,
    memory: str | None,
    host_memory: str | None,
    lossy: bool,
    check: bool,
    written: Path | None,
    everything: bool,
    form: str,
    traces: Path,
    quiet: bool,
    **options: Any,
) -> None:
    """Find how a target fits a GPU, how fast, and print the code.

    The call runs on the simulated GPU; half precision, quantization, offloading, decoding in tiles or slices
    and compiling are priced together. Printed are the recipes that no other beats in time, memory, and what
    the picture loses; of the fastest that loses nothing one sees, the code. Where nothing fits: by how much.

    --check runs each recipe's code on a small copy of the pipeline: it has to run there, and to change the
    output no more than it says, or it is not taken. --write FILE does so, and writes the one that is taken:
    `from FILE import optimize; optimize(pipe)` in place of `pipe.to("cuda")`. The recipes are stored:
    `diffprof show` prints them again, and `diffprof fix RUN --apply` checks and writes the code of one.
    """
    from diffprof.model.fitting import save_fit
    from diffprof.model.progress import progress_on
    from diffprof.model.recording.whole_file import write_whole
    from diffprof.model.runs import TRACES, new_folder
    from diffprof.views.fits import module_of, render_fit

    given = {name: value for name, value in options.items() if name in _NEEDED or value}
    limits = {"memory_gib": gib_of(memory, "--memory"), "host_gib": gib_of(host_memory, "--host-memory")}
    steps = options.pop("steps", None)
    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.scanning.fitting import fit
        from diffprof.tuning.fit_checks import Checks

        found = fit(
            target,
            device=device or DEFAULT,
            **limits,
            steps=steps,
            lossy=lossy,
            check=Checks if check or written is not None else None,
            every=everything,
            options=make_options(**options),
            on_stage=progress.stage,
        )
    screen = terminal()
    emit(render_fit(found, form, everything=everything, width=screen.columns, colour=screen.colour))
    folder = new_folder(traces, f"{target}-fit", now=datetime.datetime.now(datetime.UTC))
    say(f"Stored in {save_fit(replace(found, options=given), folder)}")
    if written is not None:
        write_whole(written, module_of(found).encode())
        say(f'Written: {written}; call optimize(pipe) in place of pipe.to("cuda").')
    elif found.chosen is not None:
        name = shell(folder.name if traces == TRACES else folder)
        say(f"Check its code and write it: diffprof fix --apply {name} (--select leaves: of another recipe)")
