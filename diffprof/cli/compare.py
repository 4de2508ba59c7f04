"""`diffprof compare`: two stored runs, what changed between them."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffprof.cli.options import format_option, redact_option, traces_option
from diffprof.cli.output import emit, say, stdout_to_stderr, terminal
from diffprof.model.errors import ExitCode, TargetError
from diffprof.views.comparison import FORMS

if TYPE_CHECKING:
    from diffprof.judge.comparing import Comparison


@click.command("compare")
@click.argument("before", metavar="A", required=False)
@click.argument("after", metavar="B", required=False)
@click.option(
    "--git",
    "revision",
    metavar="REV",
    help="Scan a target at this revision, in a worktree of its own, and as it is here, and compare the two.",
)
@click.option(
    "--fail-on-regression", is_flag=True, help="Exit with 1 if B is slower, blocks more, or has new findings."
)
@format_option(FORMS)
@redact_option()
@traces_option()
def command(
    before: str | None,
    after: str | None,
    revision: str | None,
    fail_on_regression: bool,
    form: str,
    redact: bool,
    traces: Path,
) -> None:
    """Compare two stored runs: what got better, worse, appeared and went.

    A is the run before, B the one after: folders, report files, or names or unique parts of names, as for
    `diffprof show`. Both are judged by the rules of this version. Times count as changed where they differ by
    more than the spread of their passes. Waits before or after the loop are no regression where the call got
    faster and no more of them came than left each of its steps. With --git, A is a target, or the name of one
    in [tool.diffprof]; without A, all of those are compared.
    """
    from diffprof.views.comparison import render_comparison

    if revision is not None:
        found = _at_two_revisions(revision, before, traces / "checks")
    elif before is None or after is None:
        raise click.UsageError("Name two runs, or a target with --git REV.")
    else:
        found = [_of_runs(before, after, traces, form, redact=redact)]
    screen = terminal()
    for each in found:
        emit(render_comparison(each, form, columns=screen.columns, colour=screen.colour))
    regressions = [regression for each in found for regression in each.regressions]
    if fail_on_regression and regressions:
        for regression in regressions:
            say(f"regression: {regression}")
        raise click.exceptions.Exit(ExitCode.FINDINGS)


def _of_runs(before: str, after: str, traces: Path, form: str, *, redact: bool) -> Comparison:
    from diffprof.judge.comparing import compare
    from diffprof.judge.judging import load_judged
    from diffprof.model import runs
    from diffprof.model.redacting import to_send

    one, other = (
        to_send(load_judged(runs.find(traces, name)), form, redact=redact) for name in (before, after)
    )
    return compare(one, other)


def _at_two_revisions(revision: str, target: str | None, reports: Path) -> list[Comparison]:
    """Of a target, or of all that are configured. Raises DiffprofError where one did not run."""
    from diffprof.guard.baseline import Baseline
    from diffprof.guard.check import check, jobs_of
    from diffprof.guard.configuration import load_configuration
    from diffprof.guard.elsewhere import configured, reports_elsewhere

    with contextlib.ExitStack() as stack:
        settings = load_configuration(Path.cwd())
        if target is not None and target not in settings.targets:
            settings = stack.enter_context(configured(target))
        names = [target] if target else list(settings.targets)
        jobs = list(jobs_of(settings, names))
        stack.enter_context(contextlib.chdir(settings.root))
        stack.enter_context(stdout_to_stderr())
        other = stack.enter_context(reports_elsewhere(settings, revision, names))
        found = check(settings, jobs, Baseline(), reports.absolute(), against=other)
    for each in found:
        if each.against is None:
            why = "; ".join(each.said) or f"it did not run at {revision}"
            raise TargetError(f"{each.name} can't be compared: {why}", "`diffprof check` says more.")
    return [each.against for each in found if each.against is not None]
