"""`diffprof calibrate`: measure this machine's GPU, and price it by that from then on."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from diffprof.cli.options import NewFile
from diffprof.cli.output import emit, stdout_to_stderr


@click.command("calibrate")
@click.option("--device", default="cuda", show_default=True, help="cuda, or cuda:1.")
@click.option("--seconds", type=click.FloatRange(1), default=90.0, show_default=True, help="At most.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Take another machine's instead.",
)
@click.option(
    "--export", "target", type=NewFile(), metavar="FILE", help="Write what is stored here to a file."
)
@click.option("--gpu", metavar="NAME", help="Which one to export, where several are stored.")
@click.option("--forget", is_flag=True, help="Remove what is stored.")
@click.option("--short", is_flag=True, hidden=True)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    device: str,
    seconds: float,
    source: Path | None,
    target: Path | None,
    gpu: str | None,
    forget: bool,
    short: bool,
    quiet: bool,
) -> None:
    """Measure this machine's GPU: products, attention by kernel, convolutions, streams, latencies, the link.

    The times are stored in your data folder and used from then on for that GPU, marked measured. `--export`
    writes a file that another machine takes with `--from`, to predict this GPU there.
    """
    from diffprof.model.progress import progress_on
    from diffprof.scanning import calibrating

    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        if forget:
            lines = calibrating.forget(gpu)
        elif source is not None:
            lines = calibrating.take(source)
        elif target is not None:
            lines = calibrating.export(target, gpu)
        else:
            lines = calibrating.calibrate(device, seconds, short=short, say=progress.stage)
    emit("".join(f"{line}\n" for line in lines))
