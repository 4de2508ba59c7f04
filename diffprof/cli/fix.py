"""`diffprof fix`: the plan of a stored run, and with --apply what becomes of it."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffprof.cli.interrupts import signals
from diffprof.cli.options import format_option, redact_option, traces_option
from diffprof.cli.output import emit, say, stdout_to_stderr, terminal
from diffprof.model.collection import paused_collection
from diffprof.model.errors import DiffprofError, UsageError, reported
from diffprof.model.plain import clean
from diffprof.model.recording.source_text import shell
from diffprof.tuning.storing import OPTIMIZED, numbered, store_tuned
from diffprof.views.optimized_source import optimized
from diffprof.views.tuning import FORMS, of_each, render_applied

if TYPE_CHECKING:
    from diffprof.judge.plan import Choice
    from diffprof.model.fix import Plan
    from diffprof.model.report import Report
    from diffprof.tuning.source_checking import CheckedPatch


def words_of(text: tuple[str, ...]) -> tuple[str, ...]:
    """`--select A,B --select C` as A, B, C."""
    return tuple(word.strip() for part in text for word in part.split(",") if word.strip())


def stored(traces: Path, run: str | None) -> Report:
    """The report of a run, judged by the rules of this version: the newest that has no fixes applied, or the
    newest of a target, unless named.

    Raises UsageError; where the name is that of a target, the hint is to scan it first.
    """
    from diffprof.judge.judging import load_judged
    from diffprof.model import runs

    candidates = [r for r in runs.list_runs(traces) if not r.fixed and r.error is None]
    newest = next((r.folder for r in candidates if run in (None, r.target)), None)
    try:
        return load_judged(newest or runs.find(traces, run))
    except runs.NoSuchRun as error:
        if run is None or not _is_target(run):
            raise
        raise UsageError(
            f"{run!r} names no stored run in {traces}: fixes follow from a scan.",
            f"Scan it first: `diffprof scan {shell(run)}`, then `diffprof fix`.",
        ) from error


def _is_target(name: str) -> bool:
    from diffprof.targets.builtin import builtin_named, shrinkable

    built_in = builtin_named(name) or shrinkable(name)
    return built_in is not None or ".py" in name or Path(name).is_dir()


@click.command("fix")
@click.argument("run", required=False)
@click.option(
    "--select",
    multiple=True,
    metavar="A,B",
    help="Only these: fix keys, rule codes, prefixes such as SYN; of a fit, a recipe with all of them.",
)
@click.option("--ignore", multiple=True, metavar="A,B", help="Not these.")
@click.option("--lossy", is_flag=True, help="Allow fixes that change the image.")
@click.option(
    "--goal",
    type=click.Choice(["latency", "memory", "no-waits"]),
    default="latency",
    show_default=True,
    help="What the fixes are for. no-waits: exact fixes that remove waits from the loop may cost 2 %.",
)
@click.option(
    "--keep-unchecked", is_flag=True, help="Keep also what helps but whose output could not be compared."
)
@click.option(
    "--shims",
    is_flag=True,
    help="Allow interpreters, long and over private API, where no plain code is known.",
)
@click.option("--apply", "applied", is_flag=True, help="Try each selected fix, and keep those that help.")
@click.option(
    "--patch",
    "patched",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Show the edits of a file of yours as a diff; with --apply, write them and nothing else.",
)
@click.option(
    "--library",
    is_flag=True,
    help="Write a patch of diffusers itself, checked on a copy, and its pull request.",
)
@click.option(
    "--source",
    metavar="CHECKOUT",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="With --library: a checkout of diffusers to patch; else the installed package is read.",
)
@click.option(
    "--pipeline",
    type=click.IntRange(min=1),
    metavar="N",
    help="Of a script that calls several pipelines, its Nth alone.",
)
@click.option(
    "--yes", "agreed", is_flag=True, help="Build the target of a run that may be somebody else's, unasked."
)
@format_option(FORMS)
@redact_option()
@traces_option()
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
def command(run: str | None, **asked: Any) -> None:
    """Plan the fixes of a stored run, and with --apply try them.

    RUN is as for `diffprof show`, or a target, whose newest run is taken; without it, the newest of all. Of
    the folder of a fit, the recipe that it took is shown, or the fastest that --select, --ignore and --lossy
    leave (`--select "model offload" --ignore compile`); --apply runs its code on a small copy of the
    pipeline, takes the next where that fails or changes more than it says, and writes it to optimized.py.
    Each fix is shown with its safety, the findings that it resolves, what it is expected to save, and its
    code. Nothing is changed.

    With --apply the run's target is built again. One fix after the other is applied, measured on the run's
    device, and kept if the output is what the fix claims and the call is no slower; else it is undone. One
    whose output can't be compared is not kept, unless --keep-unchecked says so. The outcomes are stored in
    the run, what was kept is written to optimized.py beside it, and a scan of it is stored as a run of its
    own. Of a script that calls several pipelines, each has its plan, and with --apply its optimized.py and
    its run after.

    --patch FILE edits your own source instead: findings that lie in it, and, where it makes the pipeline, the
    selected fixes that are statements on it. The edits are checked by a scan with them, and those that remove
    nothing are taken back. One that may change the output is written if --apply kept it
    before, --select names it, or --lossy allows it. The file is kept as FILE.orig.

    --library prints a patch of diffusers for the waits that stand there, of each file that it changes, with
    the text of a pull request. A copy of the package is patched and imported: the waits have to be gone, and
    the output of every pipeline of the corpus that runs the file the same to the bit. Nothing installed is
    edited; diff and text are stored with the run.
    """
    _carried_out(run, **asked)


def _carried_out(
    run: str | None,
    applied: bool,
    patched: Path | None,
    library: bool,
    source: Path | None,
    pipeline: int | None,
    agreed: bool,
    form: str,
    redact: bool,
    traces: Path,
    quiet: bool,
    **chosen: Any,
) -> None:
    """The command with its options."""
    from diffprof.judge.consent import doubts
    from diffprof.judge.plan import asked_for, make_plan
    from diffprof.judge.source_edit.stored import with_source_edits

    if (folder := _fit_folder(traces, run)) is not None:
        if applied and not agreed:
            _ask_fit(folder, traces)
        choice = _choice(**chosen)
        _fit(folder, choice, applied=applied, form=form, quiet=quiet)
        return
    whole = stored(traces, run)
    picked = _picked(whole, pipeline)
    choice = _choice(**chosen)
    if library or patched is not None:
        report = whole.alone[picked[0]]
        if len(picked) > 1:
            say(f"Of the script's pipelines, for {whole.names[0]}: --pipeline N takes another.")
    if library:
        if not agreed:
            _ask(report, traces)
        _library(with_source_edits(report), source, quiet=quiet)
        return
    if patched is not None:
        plan, doubtful = make_plan(report, choice), () if agreed else doubts(report, traces)
        with stdout_to_stderr():
            checked = _checked(report, plan, patched, asked_for(plan, choice), doubtful)
        _patch(checked, form, write=applied, keep_unchecked=choice.keep_unchecked)
        return
    if not applied:
        _show_plans(whole, picked, choice, form, redact=redact)
        return
    if not agreed:
        _ask(whole, traces)
    with paused_collection():
        _try_and_store(whole, picked, choice, traces, form, redact=redact, quiet=quiet)


def _picked(report: Report, pipeline: int | None) -> list[int]:
    """Which of the report's pipelines are meant, counted from 0. Raises UsageError."""
    count = len(report.each)
    if pipeline is not None and pipeline > count:
        raise UsageError(
            f"There is no pipeline {pipeline}: the run is of {', '.join(report.names)}.", "Count them from 1."
        )
    return list(range(count)) if pipeline is None else [pipeline - 1]


def _fit_folder(traces: Path, run: str | None) -> Path | None:
    """The folder of a stored fit, by its path or name; None for other runs."""
    from diffprof.model.fitting import FIT_FILE

    places = () if run is None else (Path(run), traces / run)
    return next((place for place in places if (place / FIT_FILE).is_file()), None)


def _ask_fit(folder: Path, traces: Path) -> None:
    """Raises UsageError for a fit that may be somebody else's."""
    from diffprof.judge.consent import from_elsewhere

    for why in from_elsewhere(folder, traces):
        raise UsageError(why, "Its code would be run: look at it first; --yes says that it may be run.")


def _fit(folder: Path, choice: Choice, *, applied: bool, form: str, quiet: bool) -> None:
    """Show the recipe that a fit took, or the one that is chosen; with `applied`, check its code and write it
    beside."""
    from msgspec.structs import replace

    from diffprof.cli.scan import make_options
    from diffprof.model.fitting import FitRow, choose, load_fit, save_fit
    from diffprof.model.progress import progress_on
    from diffprof.model.recording.whole_file import write_whole
    from diffprof.views.fits import module_of, render_fit

    found = load_fit(folder)
    assert found is not None

    def wanted(row: FitRow) -> bool:
        return all(map(row.has, choice.select)) and not any(map(row.has, choice.ignore))

    rows = [*filter(wanted, found.rows)]
    if found.rows and not any(row.usable for row in rows):
        raise UsageError(
            "Of the recipes that fit, none is as --select and --ignore ask.", "See --all of `fit`."
        )
    if choice.select or choice.ignore or choice.lossy:
        found = replace(found, chosen=choose(rows, choice.lossy))
    if applied:
        with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
            progress.stage("making a small copy")
            from diffprof.scanning.fitting import recheck
            from diffprof.tuning.fit_checks import Checks

            options = make_options(**found.options)
            found = recheck(
                found,
                check=Checks,
                options=options,
                wanted=wanted,
                lossy=choice.lossy,
                on_stage=progress.stage,
            )
        save_fit(found, folder)
    screen = terminal()
    emit(render_fit(found, form, width=screen.columns, colour=screen.colour))
    if applied:
        place = folder / "optimized.py"
        write_whole(place, module_of(found).encode())
        say(f'Written: {place}; call optimize(pipe) in place of pipe.to("cuda").')
    else:
        say("Nothing was run; --apply checks the code of the recipe that is taken, and writes it.")


def _choice(*, select: tuple[str, ...], ignore: tuple[str, ...], **more: Any) -> Choice:
    """What the options ask of a plan."""
    from diffprof.judge.plan import Choice

    return Choice(select=words_of(select), ignore=words_of(ignore), **more)


def _show_plans(whole: Report, picked: Sequence[int], choice: Choice, form: str, *, redact: bool) -> None:
    from diffprof.judge.plan import make_plan
    from diffprof.judge.source_edit.stored import with_source_edits
    from diffprof.model.redacting import to_send
    from diffprof.views.tuning import render_plan

    screen = terminal()
    shown = {}
    for number in picked:
        report = with_source_edits(whole.alone[number])
        plan = to_send(make_plan(report, choice), form, redact=redact)
        report = to_send(report, form, redact=redact)
        shown[whole.names[number]] = render_plan(
            report, plan, form, columns=screen.columns, colour=screen.colour
        )
    emit(of_each(shown, form))


def _try_and_store(
    whole: Report,
    picked: Sequence[int],
    choice: Choice,
    traces: Path,
    form: str,
    *,
    redact: bool,
    quiet: bool,
) -> None:
    """Try the fixes of each pipeline, store what became of them, and show it; also of those before a
    failure."""
    shown: dict[str, str] = {}
    try:
        for number in picked:
            if len(picked) > 1 and not quiet:
                say(f"Pipeline {number + 1} of {len(whole.each)}: {whole.names[number]}")
            whole, text, failure = _tried_one(whole, number, choice, traces, form, redact=redact, quiet=quiet)
            shown[whole.names[number]] = text
            signals().release()
            if failure is not None:
                raise failure
    finally:
        if shown:
            signals().hold()
            emit(of_each(shown, form))
            signals().release()


def _tried_one(
    whole: Report, number: int, choice: Choice, traces: Path, form: str, *, redact: bool, quiet: bool
) -> tuple[Report, str, BaseException | None]:
    """(the report with the outcomes of one pipeline, those as text, what ended it early)."""
    from diffprof.judge.source_edit.stored import with_source_edits
    from diffprof.model.redacting import to_send

    screen = terminal()
    report, after, pictures, failure = tried(
        with_source_edits(whole.alone[number]), choice, number, quiet=quiet
    )
    signals().hold()
    whole = whole.with_pipeline(number, report)
    try:
        whole = store_tuned(
            whole,
            after,
            traces,
            now=datetime.datetime.now(datetime.UTC),
            pictures=pictures,
            optimized=optimized(report, Path(numbered(OPTIMIZED, number)).stem),
            which=number,
        )
        if failure is not None:
            say(f"The outcomes until then are stored in {whole.path}")
    except DiffprofError as error:
        failure = failure or error
    shown = to_send(whole.alone[number], form, redact=redact)
    after = to_send(after, form, redact=redact) if after is not None else None
    text = render_applied(shown, after, form, columns=screen.columns, colour=screen.colour)
    return whole, text, failure


def _library(report: Report, source: Path | None, *, quiet: bool) -> None:
    """Print the patches that hold, each behind its text, and store both with the run."""
    from diffprof.model.progress import progress_on
    from diffprof.tuning.library.checking import checked
    from diffprof.tuning.library.copies import copies_of
    from diffprof.tuning.library.edits import library_patches, package_folder
    from diffprof.views.pull_request import pull_request
    from diffprof.views.tuning import fenced

    folder = package_folder(source)
    made = library_patches(report, folder)
    patches = [patch for patch in made if patch.changes]
    if not made:
        say("No wait in the loop stands in diffusers.")
    for patch in made:
        for line, rule, why in () if patch.changes else patch.left:
            say(f"{patch.file}:{line} is not edited ({rule}): {why}.")
    with progress_on(sys.stderr, quiet=quiet) as progress:
        for n, patch in enumerate(patches, 1):
            progress.part(
                patch.file, "two copies of diffusers run the pipelines that use it", f"{n}/{len(patches)}"
            )
            found = checked(report, [patch], folder)
            if not found.holds:
                say(f"{patch.file}: not offered, the waits stay or an output changes.")
                continue
            text = pull_request(report, patch, found, copies_of(patch, folder))
            emit(f"{text}\n{fenced(patch.diff, diff=True)}")
            if report.path:
                place = Path(report.path) / f"library-{Path(patch.file).stem}"
                place.with_suffix(".patch").write_text(patch.diff, encoding="utf-8")
                place.with_suffix(".md").write_text(text, encoding="utf-8")
                say(f"Stored: {place}.patch, {place.name}.md; from a checkout, `git apply` takes the patch.")


def _ask(report: Report, traces: Path) -> None:
    """Before the target of a run is built that may be somebody else's.

    Raises UsageError where the answer is no, or there is nobody to ask.
    """
    from diffprof.judge.consent import doubts, refusal, what_is_run

    why = doubts(report, traces)
    if not why:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise refusal(report, why)
    for line in (*why, what_is_run(report)):
        say(line)
    if not click.confirm("Go on?", default=False, err=True):
        raise UsageError("Nothing was built.", "`diffprof fix RUN` shows the plan without building.")


def _harmless(diff: str) -> str:
    """For a terminal: control characters of the source as text. A pipe gets the diff as it is."""
    return "".join("\t".join(map(clean, line.split("\t"))) + "\n" for line in diff.splitlines())


def _checked(
    report: Report, plan: Plan, file: Path, asked: Container[str], doubtful: Sequence[str]
) -> CheckedPatch:
    """The edits, checked by a scan unless the run's target may be somebody else's."""
    from diffprof.judge.source_edit.patch import make_patch
    from diffprof.tuning.source_checking import CheckedPatch, checked_patch

    if doubtful:
        return CheckedPatch(make_patch(report, plan, file, asked), doubtful[0].rstrip("."))
    return checked_patch(report, plan, file, asked)


def _patch(checked: CheckedPatch, form: str, *, write: bool, keep_unchecked: bool) -> None:
    """Print the diff on stdout, and what it does and leaves on stderr; write it if asked to."""
    from diffprof.judge.source_edit.patch import write_patch
    from diffprof.model.report import as_json

    patch, file = checked.patch, checked.patch.file
    if form == "json":
        done = [{"line": line, "what": what} for line, what in patch.done]
        document = {"file": str(file), "diff": patch.diff, "done": done, "left": patch.left}
        emit(as_json(document | {"unchecked": checked.unchecked}).decode())
    elif form == "markdown":
        from diffprof.views.tuning import fenced

        emit(fenced(patch.diff, diff=True) if patch.diff else "No edit.\n")
    else:
        emit(_harmless(patch.diff) if sys.stdout and sys.stdout.isatty() else patch.diff_bytes)
    for line, what in patch.done:
        say(f"line {line}: {what}")
    for words in patch.left:
        say(f"no edit: {words}")
    if patch.diff and patch.edited:
        said = f"unchecked: {checked.unchecked}" if checked.unchecked else "checked by a scan with the edits"
        say(f"{said}.")
    if not patch.diff:
        say(f"Nothing in {file} can be edited safely.")
    elif write and checked.unchecked and not keep_unchecked:
        say("Nothing was written: --keep-unchecked writes edits that no scan has checked.")
    elif write:
        say(f"Written; the file as it was is {write_patch(patch)}")
    else:
        say("Nothing was written; --apply writes it.")


def tried(
    report: Report, choice: Choice, which: int = 0, *, quiet: bool
) -> tuple[Report, Report | None, Mapping[str, bytes], BaseException | None]:
    """(the report with its outcomes, the scan after them, pictures to store, what ended it early). which: the
    report's pipeline of a script, counted from 0."""
    from diffprof.model.progress import progress_on

    with progress_on(sys.stderr, quiet=quiet) as progress, stdout_to_stderr():
        progress.stage("importing torch and diffusers")
        from diffprof.tuning.engine import tune

        try:
            tuned = tune(report, choice, progress=progress, which=which)
        except (Exception, KeyboardInterrupt) as error:
            partial = reported(error)
            if partial is None or partial.outcomes is None:
                raise
            return partial, None, {}, error
    return tuned.report, tuned.after, tuned.pictures, None
