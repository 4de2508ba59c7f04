"""`diffprof gpus`: the GPUs that can be simulated."""

from __future__ import annotations

import click

from diffprof.cli.options import format_option
from diffprof.cli.output import emit, terminal
from diffprof.views.listing import LISTS

_COLUMNS = {
    "name": "name",
    "gpu": "GPU",
    "tflops": "TFLOPS bf16, fp8",
    "memory": "memory",
    "kernels": "measured kernels",
}


@click.command("gpus")
@format_option(LISTS)
def command(form: str) -> None:
    """List the GPUs that can be simulated: peaks, memory, sources, measured kernel tables."""
    from diffprof.gpu.listing import gpu_rows
    from diffprof.views.listing import render_list

    screen = terminal()
    note = "Use one as --device sim:NAME. Peaks are dense; --format json has all figures with their sources."
    emit(render_list(_COLUMNS, gpu_rows(), form, width=screen.columns, colour=screen.colour, note=note))
