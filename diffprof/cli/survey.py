"""`diffprof survey`: every pipeline of the installed diffusers, on the simulated GPU, in one table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffprof.cli.fleet_options import engine_of, engine_options, time_left
from diffprof.cli.options import format_option, traces_option
from diffprof.cli.output import emit, stdout_to_stderr, terminal
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.views.listing import LISTS

if TYPE_CHECKING:
    from diffprof.model.survey import SurveyRow


@click.command("survey")
@click.argument("patterns", nargs=-1, metavar="[NAME...]")
@click.option(
    "--with",
    "other",
    metavar="SPEC",
    help="Show what differs with another version: diffusers==0.41.0, diffusers@main.",
)
@click.option(
    "--breaks/--no-breaks",
    default=True,
    help="Whether to look for graph breaks and recompiles, which takes most of the time.",
)
@click.option("--again", is_flag=True, help="Run what failed before once more.")
@engine_options
@traces_option(written=True)
@format_option(LISTS)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    patterns: tuple[str, ...],
    other: str | None,
    breaks: bool,
    again: bool,
    ray: str | None,
    workers: int | None,
    traces: Path,
    form: str,
    quiet: bool,
) -> None:
    """Scan every pipeline of the installed diffusers.

    The tiny pipelines of diffprof's corpus and the built-in architectures; NAME takes some of them, such as
    'corpus:flux*' or sdxl. Waits in the denoising loop, graph breaks and recompiles of the denoisers and
    decoders of the tiny ones, memory that grows from step to step, and time in which only the host works.
    Rows go to diffprof.duckdb, table survey.
    """
    from diffprof.views.surveys import render_survey

    engine = engine_of(ray, workers, PRELOAD)
    screen = terminal()
    if other is None:
        rows = _surveyed(patterns, traces, engine, breaks=breaks, again=again, quiet=quiet)
        emit(render_survey(rows, form, width=screen.columns, colour=screen.colour))
        return
    from diffprof.guard.elsewhere import with_packages
    from diffprof.judge.survey import changes
    from diffprof.views.surveys import render_changes

    options = ["--workers", str(workers)] if workers else []
    options += [*([] if breaks else ["--no-breaks"]), *(["--again"] if again else [])]
    with with_packages(other) as python:  # first: what can't be installed is said at once
        rows = _surveyed(patterns, traces, engine, breaks=breaks, again=again, quiet=quiet)
        theirs = _elsewhere(python, other, patterns, traces, options)
    emit(render_changes(changes(rows, theirs), form, width=screen.columns, colour=screen.colour))


PRELOAD = ("diffprof.fleet.worker_imports",)


def _surveyed(
    patterns: tuple[str, ...], traces: Path, engine: object, *, breaks: bool, again: bool, quiet: bool
) -> tuple[SurveyRow, ...]:
    from diffprof.fleet.gathering import Told
    from diffprof.fleet.store import STORE_FILE, Store
    from diffprof.model.progress import progress_on

    store = Store(traces / STORE_FILE)
    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.fleet.surveying import survey

        chosen = _chosen(patterns)

        def told(now: Told) -> None:
            if now.done == 1:
                progress.stage("pipelines", total=now.total)
            failed = f", {now.failed} failed" if now.failed else ""
            progress.step(f"{time_left(now.left_s)}{failed}; {now.last}")

        return survey(chosen, store, engine, breaks=breaks, again=again, told=told)  # type: ignore[arg-type]


def _chosen(patterns: tuple[str, ...]) -> list[str]:
    """The targets that these name; all without any."""
    from fnmatch import fnmatchcase

    from diffprof.fleet.surveying import names
    from diffprof.targets.names import nearest

    known = names()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise UsageError(
                f"No pipeline of a survey is called {pattern!r}.",
                nearest(pattern, known) or "`diffprof survey` lists them.",
            )
    return [name for name in known if not patterns or any(fnmatchcase(name, each) for each in patterns)]


def _elsewhere(
    python: Path, spec: str, patterns: tuple[str, ...], traces: Path, options: list[str]
) -> tuple[SurveyRow, ...]:
    """The same survey by another Python, into the same store. spec: what differs there."""
    import msgspec

    from diffprof.model.survey import SurveyRow

    command = [str(python), "-m", "diffprof", "survey", *patterns, *options]
    command += ["--format", "json", "--quiet", "--traces", str(traces)]
    done = subprocess.run(command, stdout=subprocess.PIPE)
    try:
        return msgspec.convert(json.loads(done.stdout)["rows"], tuple[SurveyRow, ...])
    except (ValueError, KeyError) as error:
        raise DiffprofError(
            f"The survey with {spec} ended with status {done.returncode} and no result.", "See above."
        ) from error
