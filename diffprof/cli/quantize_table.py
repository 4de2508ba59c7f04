"""`diffprof quantize-table`: which linears of a target to quantize, and the code that does it."""

from __future__ import annotations

import sys
from typing import Any

import click

from diffprof.cli.options import format_option
from diffprof.cli.output import emit, stdout_to_stderr, terminal
from diffprof.cli.scan import make_options, target_options
from diffprof.views.quantization import FORMS


@click.command("quantize-table")
@click.argument("target")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@target_options
@click.option("--fuse-qkv", is_flag=True, help="Judge the pipeline with fused attention projections.")
@click.option(
    "--compile/--eager",
    "compiled",
    default=None,
    help="Decide by compiled or by eager timings.  [default: compiled on GPUs and for compiled pipelines]",
)
@click.option("--schemes", metavar="A,B", help="Try only these schemes.")
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Seconds for timing; the largest shares come first.",
)
@click.option(
    "--min-sqnr", type=float, metavar="DB", help="Accuracy floor of a quantized layer.  [default: 20]"
)
@click.option("--no-cache", is_flag=True, help="Time again what an earlier scan timed.")
@format_option(FORMS)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    target: str,
    args: tuple[str, ...],
    device: str | None,
    fuse_qkv: bool,
    compiled: bool | None,
    schemes: str | None,
    budget: float,
    min_sqnr: float | None,
    no_cache: bool,
    form: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Time every linear of a target under every quantization scheme, and print which to quantize how.

    On a simulated GPU the times are predicted. Beside them stands the published hand-made list for SDXL.
    """
    from diffprof.model.progress import progress_on

    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.scanning.quantizing import quantization_report

        report = quantization_report(
            target,
            args=args,
            device=device,
            options=make_options(**options),
            budget_s=budget,
            min_sqnr=min_sqnr,
            cache=not no_cache,
            settings={"fuse_qkv": fuse_qkv, "compile": compiled, "schemes": schemes},
            progress=progress,
        )
    from diffprof.views.quantization import render_quantization

    screen = terminal()
    emit(render_quantization(report.recording, form, width=screen.columns, colour=screen.colour))
