"""`diffprof check`: every target of the configuration, one table, one exit status."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from diffprof.cli.delivery import BASELINE, need_baseline
from diffprof.cli.options import format_option
from diffprof.cli.output import emit, say, stdout_to_stderr, terminal
from diffprof.model.errors import UsageError
from diffprof.views.checks import FORMS, OWN

if TYPE_CHECKING:
    from diffprof.guard.baseline import Baseline
    from diffprof.guard.check import CheckJob
    from diffprof.guard.configuration import Configuration
    from diffprof.judge.checked import TargetCheck
    from diffprof.model.report import Report


def writes(pairs: Sequence[str]) -> dict[str, Path]:
    """`--write sarif=FILE`. Raises UsageError for a form that is not there."""
    found = {}
    for pair in pairs:
        form, equals, file = pair.partition("=")
        if not equals or form not in FORMS:
            raise UsageError(f"--write {pair!r} is not of the form FORM=FILE.", f"Forms: {', '.join(FORMS)}.")
        found[form] = Path(file).absolute()
    return found


@click.command("check")
@click.argument("names", nargs=-1)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="File with [tool.diffprof].  [default: the nearest pyproject.toml that has it]",
)
@BASELINE[0]
@BASELINE[1]
@click.option(
    "--against",
    metavar="REV",
    help="A git revision, or the --reports of another check: only what is new against it fails.",
)
@click.option(
    "--with",
    "packages",
    multiple=True,
    metavar="PACKAGE",
    help="Check again with another version, such as diffusers==0.41.0 or diffusers@main.",
)
@format_option(FORMS)
@click.option(
    "--write", "written", multiple=True, metavar="FORM=FILE", help="Write another form of the result as well."
)
@click.option(
    "--reports",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("traces/checks"),
    show_default=True,
    metavar="DIR",
    help="Folder of the reports, one a target and device, written anew.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(
    names: tuple[str, ...],
    config: Path | None,
    baseline_file: Path | None,
    update: bool,
    against: str | None,
    packages: tuple[str, ...],
    form: str,
    written: tuple[str, ...],
    reports: Path,
    quiet: bool,
) -> None:
    """Scan the targets of [tool.diffprof] in pyproject.toml and hold them against their gates.

    NAMES are of targets; without, all are checked, each on each of its devices. A target fails on what
    `fail-on` names (in-loop unless said otherwise), on more memory than `max-memory`, and on allowances that
    allow nothing any more; what is in the baseline, and what is allowed, does not fail. Ends with 3 if a
    target did not run, else with 1 if something was found, else with 4 if something could not be judged.
    """
    from diffprof.guard.check import accepted, jobs_of, updated
    from diffprof.guard.configuration import load_configuration
    from diffprof.judge.checked import exit_code
    from diffprof.model.redacting import without_home
    from diffprof.views.checks import render_checks

    others = writes(written)
    settings = load_configuration(Path.cwd(), config)
    file = baseline_file
    if file is None and settings.baseline_file:
        file = Path(settings.root) / settings.baseline_file
    if baseline_file is None and file is not None and not file.exists() and not update:
        say(f"{file.name} is not there yet: everything counts as new.")
        file = None
    known = need_baseline(file, update=update)
    jobs = list(jobs_of(settings, names))
    reports = reports.absolute()
    with contextlib.chdir(settings.root), stdout_to_stderr():
        found = _checked(settings, jobs, known, reports, against, packages, quiet=quiet)
    if update and file is not None and known is not None:
        from diffprof.guard.baseline import save_baseline

        save_baseline(updated(known, found), file)
        found = tuple(map(accepted, found))
        say(f"What is there now is known in {file.name}.")
    screen = terminal()

    def rendered(each: str) -> str:
        sent = found if each in OWN else without_home(found)
        return render_checks(sent, each, columns=screen.columns, colour=screen.colour)

    for name, place in others.items():
        place.write_text(rendered(name), encoding="utf-8")
    emit(rendered(form))
    if code := exit_code(found):
        raise click.exceptions.Exit(code)


def _checked(
    settings: Configuration,
    jobs: Sequence[CheckJob],
    known: Baseline | None,
    reports: Path,
    against: str | None,
    packages: Sequence[str],
    *,
    quiet: bool,
) -> tuple[TargetCheck, ...]:
    """Here, held against another place where one is named, and with other packages."""
    from diffprof.guard.baseline import Baseline
    from diffprof.guard.check import check, scan_job
    from diffprof.guard.elsewhere import check_there, reports_elsewhere, with_packages
    from diffprof.model.progress import progress_on

    names = list(dict.fromkeys(job.name for job in jobs))
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(reports_elsewhere(settings, against, names)) if against else None
        with progress_on(sys.stderr, quiet=quiet) as progress:

            def scanned(job: CheckJob) -> Report:
                progress.part(job.name, job.device or "", f"{jobs.index(job) + 1} of {len(jobs)}")
                return scan_job(settings, job, progress=progress)

            found = check(settings, jobs, known or Baseline(), reports, scanned=scanned, against=other)
        for spec in packages:
            say(f"with {spec}:")
            python = stack.enter_context(with_packages(spec))
            there = reports / "with" / spec.replace("/", "-")
            again = check_there(Path.cwd(), Path(settings.file), names, there, python=python, against=reports)
            found += tuple(_named(each, spec) for each in again)
    return found


def _named(checked: TargetCheck, spec: str) -> TargetCheck:
    import msgspec

    return msgspec.structs.replace(checked, name=f"{checked.name} with {spec}")
