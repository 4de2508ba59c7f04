"""`diffprof fix`: the plan of a stored run, and with --apply what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, terminal
from diffprof.errors import UsageError
from diffprof.views.tuning import FORMS

if TYPE_CHECKING:
    from diffprof.report import Report


def words_of(text: tuple[str, ...]) -> tuple[str, ...]:
    """`--select A,B --select C` as A, B, C."""
    return tuple(word.strip() for part in text for word in part.split(",") if word.strip())


def stored(traces: Path, run: str | None) -> Report:
    """The report of a run, judged by the rules of this version.

    Raises UsageError; where the name is that of a target, the hint is to scan it first.
    """
    from diffprof import runs
    from diffprof.report import judge_again, load_report
    from diffprof.targets import builtin_targets

    try:
        return judge_again(load_report(runs.find(traces, run)))
    except UsageError as error:
        is_target = run is not None and (
            any(info.name == run for info in builtin_targets()) or ".py" in run or Path(run).is_dir()
        )
        if is_target:
            raise UsageError(
                f"{run!r} names no stored run in {traces}: fixes follow from a scan.",
                f"Scan it first: `diffprof scan {run}`, then `diffprof fix`.",
            ) from error
        raise


@click.command("fix")
@click.argument("run", required=False)
@click.option(
    "--select", multiple=True, metavar="A,B", help="Only these: fix keys, rule codes, prefixes such as SYN."
)
@click.option("--ignore", multiple=True, metavar="A,B", help="Not these.")
@click.option("--lossy", is_flag=True, help="Allow fixes that change the image.")
@click.option(
    "--goal",
    type=click.Choice(["latency", "memory"]),
    default="latency",
    show_default=True,
    help="What the fixes are for.",
)
@format_option(FORMS)
@traces_option()
def command(
    run: str | None,
    select: tuple[str, ...],
    ignore: tuple[str, ...],
    lossy: bool,
    goal: str,
    form: str,
    traces: Path,
) -> None:
    """Plan the fixes of a stored run, in the order in which they would be applied.

    RUN is as for `diffprof show`; without it, the newest run is taken. Each fix is shown with its safety, the
    findings that it resolves, what it is expected to save, and its code. Nothing is changed.
    """
    from diffprof.tuning.plan import Choice, make_plan
    from diffprof.views.tuning import render_plan

    report = stored(traces, run)
    choice = Choice(select=words_of(select), ignore=words_of(ignore), lossy=lossy, goal=goal)
    plan = make_plan(report, choice)
    screen = terminal()
    emit(render_plan(report, plan, form, columns=screen.columns, colour=screen.colour))
