"""`diffprof import`: a report on a trace that was recorded elsewhere."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import click

from diffprof.cli.options import format_option, traces_option, verbose_option
from diffprof.cli.output import emit, say, terminal
from diffprof.errors import DiffprofError, ExitCode


@click.command("import")
@click.argument("trace", type=click.Path(path_type=Path), metavar="TRACE.json[.gz]")
@format_option(("text", "json", "markdown", "github"))
@click.option(
    "--fail-on",
    metavar="RULE,...",
    default="",
    help="Exit with 1 if these find anything: codes, names, prefixes such as SYN, or in-loop.",
)
@traces_option()
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@verbose_option()
def command(trace: Path, form: str, fail_on: str, traces: Path, quiet: bool, verbose: bool) -> None:
    """Report on a trace of PyTorch's profiler, made on any machine.

    Kernels, waits with their Python site, idle time of the GPU and its causes, pageable copies and phases,
    each as far as TRACE tells: record with `with_stack=True` for sites and `record_shapes=True` for shapes.
    Needs no GPU and no PyTorch.
    """
    from diffprof.gate import parse_gate
    from diffprof.importing import import_trace
    from diffprof.progress import progress_on
    from diffprof.runs import store
    from diffprof.views import render

    gate = parse_gate(fail_on)
    done = 0
    with progress_on(sys.stderr, quiet=quiet) as progress:
        progress.stage(f"reading {trace.name} (MB)")

        def read(size: int) -> None:
            nonlocal done
            progress.step(amount=(size >> 20) - done)
            done = size >> 20

        report = import_trace(trace, progress=read)
    unstored: DiffprofError | None = None
    try:
        report = store(report, traces, now=datetime.datetime.now(datetime.UTC))
    except DiffprofError as error:
        unstored = error
    screen = terminal()
    emit(render(report, form, columns=screen.columns, colour=screen.colour, chains=verbose))
    if unstored is not None:
        raise unstored
    if form != "text":
        say(f"stored in {report.path}")
    for each in gate.unjudged(report):
        say(f"warning: --fail-on rests on {each.rule} {each.name}, which was not checked: {each.why}.")
    if hits := gate.hits(report):
        say(f"--fail-on {fail_on}: {len(hits)} found.")
        raise click.exceptions.Exit(ExitCode.FINDINGS)
