"""`diffprof baseline`: what a stored run found, as a file against which only new findings fail."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.options import traces_option
from diffprof.cli.output import emit


@click.command("baseline")
@click.argument("run", required=False)
@traces_option()
def command(run: str | None, traces: Path) -> None:
    """Print what a stored run found as a baseline: `diffprof baseline RUN > diffprof-baseline.json`.

    RUN is named as for `diffprof show`. With `--baseline-file`, `scan`, `import` and `check` fail only on
    what is not in that file. A finding is known by rule, file, function and the text of its line, so it stays
    known when the line moves.
    """
    from diffprof.guard.baseline import as_text, baseline_of
    from diffprof.judge.judging import load_judged
    from diffprof.model import runs

    emit(as_text(baseline_of({"": load_judged(runs.find(traces, run))})))
