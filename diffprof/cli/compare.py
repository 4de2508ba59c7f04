"""`diffprof compare`: two stored runs, what changed between them."""

from __future__ import annotations

from pathlib import Path

import click

from diffprof.cli.options import format_option, redact_option, traces_option
from diffprof.cli.output import emit, say, terminal
from diffprof.model.errors import ExitCode
from diffprof.views.comparison import FORMS


@click.command("compare")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@click.option(
    "--fail-on-regression", is_flag=True, help="Exit with 1 if B is slower, blocks more, or has new findings."
)
@format_option(FORMS)
@redact_option()
@traces_option()
def command(before: str, after: str, fail_on_regression: bool, form: str, redact: bool, traces: Path) -> None:
    """Compare two stored runs: what got better or worse, what is new and what is gone.

    A is the run before, B the one after: folders, report files, or names or unique parts of names, as for
    `diffprof show`. Both are judged by the rules of this version. Times count as changed where they differ by
    more than the spread of their passes.
    """
    from diffprof.judge.comparing import compare
    from diffprof.judge.judging import load_judged
    from diffprof.model.redacting import to_send
    from diffprof.scanning import runs
    from diffprof.views.comparison import render_comparison

    one, other = (
        to_send(load_judged(runs.find(traces, name)), form, redact=redact) for name in (before, after)
    )
    found = compare(one, other)
    screen = terminal()
    emit(render_comparison(found, form, columns=screen.columns, colour=screen.colour))
    if fail_on_regression and found.regressions:
        for each in found.regressions:
            say(f"regression: {each}")
        raise click.exceptions.Exit(ExitCode.FINDINGS)
