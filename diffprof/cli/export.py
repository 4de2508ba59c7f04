"""`diffprof export`: the memory of a call as PyTorch's memory snapshot."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from diffprof.cli.options import NewFile
from diffprof.cli.output import say, stdout_to_stderr
from diffprof.cli.scan import make_options, target_options
from diffprof.devices import DEFAULT_SIMULATED


@click.command("export")
@click.argument("target")
@click.argument("file", type=NewFile(), metavar="SNAPSHOT.pickle")
@target_options
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(target: str, file: Path, device: str | None, quiet: bool, **options: Any) -> None:
    """Write the memory of a target's call as PyTorch's memory snapshot.

    Open SNAPSHOT.pickle in https://pytorch.org/memory_viz, or with `python -m torch.cuda._memory_viz`: every
    tensor of the call with the line and module that made it. The call runs on a simulated GPU; what is told
    as time counts operations. `diffprof import` reads such files, also those of a real GPU.
    """
    from diffprof.model.progress import progress_on
    from diffprof.model.units import size

    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.scanning.snapshots import export_memory

        peak = export_memory(
            target, file, device=device or DEFAULT_SIMULATED, options=make_options(**options)
        )
    say(f"wrote {file}: at most {size(peak)} in use")
