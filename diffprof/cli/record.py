"""`diffprof record`: a small trace of a target's denoising steps."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.options import NewFile
from diffprof.cli.output import say, stdout_to_stderr
from diffprof.model.errors import UsageError


@click.command("record")
@click.argument("target")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--steps", type=click.IntRange(1), default=3, show_default=True, help="Denoising steps to record."
)
@click.option("--device", help="cuda or cpu.  [default: cuda if present, else cpu]")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A call argument.")
@click.option(
    "-o",
    "--output",
    type=NewFile(),
    default=Path("steps.json.gz"),
    show_default=True,
    metavar="FILE",
    help="The trace.",
)
def command(
    target: str, args: tuple[str, ...], steps: int, device: str | None, pairs: tuple[str, ...], output: Path
) -> None:
    """Record a trace of PyTorch's profiler that stays small, to be sent: a few steps, with stacks.

    TARGET is a script, whose own ARGS follow after --, or what `diffprof scan` takes; it runs for real, with
    its weights. The first step of its first call is left out, and the call ends after the recorded ones.
    `diffprof import` reports on the file. It holds names and lines of source, no pictures and no prompts.
    """
    from diffprof.cli.scan import call_arguments

    if not output.name.endswith((".json", ".json.gz")):
        raise UsageError(f"{output} is no name of a trace.", "End it with .json.gz.")
    with stdout_to_stderr():
        from diffprof.live.recording import record_steps
        from diffprof.model.units import size
        from diffprof.targets import Options

        options = Options(call=call_arguments(pairs))
        written = record_steps(target, output, args=args, steps=steps, device=device, options=options)
    say(f"{output}: {steps} steps, {size(written)}. Next: diffprof import {output}")
