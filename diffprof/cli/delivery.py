"""What every command that makes a report does with it: store it, print it, hold it against --fail-on."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from diffprof.cli.options import Decorator
from diffprof.cli.output import emit, say, terminal
from diffprof.model.errors import DiffprofError, ExitCode, UsageError

if TYPE_CHECKING:
    from diffprof.guard.baseline import Baseline
    from diffprof.judge.gate import Gate
    from diffprof.model.finding import Finding
    from diffprof.model.report import Report

FORMS = ("text", "json", "markdown", "github")
"""What is printed right after a scan; `diffprof show` has more."""


def fail_on_option() -> Decorator:
    """`--fail-on`, as `fail_on`: text for `diffprof.judge.gate.parse_gate`; with it `--baseline-file` and
    `--update`."""

    def options(function: Callable[..., object]) -> Callable[..., Any]:
        for option in reversed((_FAIL_ON, *BASELINE)):
            function = option(function)
        return function

    return options


_FAIL_ON = click.option(
    "--fail-on",
    metavar="RULE,...",
    default="",
    help="Exit with 1 on these: codes, names, prefixes such as SYN, or in-loop (waits in the loop).",
)
BASELINE = (
    click.option(
        "--baseline-file",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Fail only on what is not in it: of --fail-on, else any finding at a line.",
    ),
    click.option("--update", is_flag=True, help="Write what is found now into --baseline-file."),
)
"""`baseline_file` and `update`."""


def deliver(
    report: Report,
    form: str,
    traces: Path,
    *,
    verbose: bool = False,
    failed: bool = False,
    trace: Path | None = None,
    imported: bool = False,
    about: Sequence[str] = (),
    redact: bool = False,
) -> None:
    """Store and print; what can't be stored is printed all the same, and the error raised after that.

    trace: the profiler's trace that the report was made from, to be kept beside it. imported: it was recorded
    elsewhere, and the report is on it. about: codes of the rules that were asked for, for the verdict.
    redact: of what is printed.
    failed: the target failed before, and the report is partial. A second failure is then only said: the
    first is what the exit status tells.
    """
    from diffprof.model.redacting import to_send
    from diffprof.scanning.storing import store
    from diffprof.views import render

    unstored: DiffprofError | None = None
    try:
        report = store(
            report, traces, now=datetime.datetime.now(datetime.UTC), trace=trace, imported=imported
        )
    except DiffprofError as error:
        unstored = error
    if about:
        from diffprof.judge.summary import summarized

        report = summarized(report, about)
    screen = terminal()
    sent = to_send(report, form, redact=redact)
    emit(render(sent, form, columns=screen.columns, colour=screen.colour, verbose=verbose))
    if unstored is not None:
        if not failed:
            raise unstored
        say(str(unstored))
    elif failed:
        say(f"What was recorded until then is stored, marked partial, in {report.path}")
    elif form != "text":
        say(f"stored in {report.path}")


def need_baseline(file: Path | None, *, update: bool) -> Baseline | None:
    """What is known, before anything long begins. Raises UsageError for a file that can't be read, and for
    --update without one."""
    if file is None:
        if update:
            raise UsageError("--update writes no file.", "Name it with --baseline-file.")
        return None
    from diffprof.guard.baseline import load_baseline

    return load_baseline(file, missing_is_empty=update)


def apply_gate(
    gate: Gate,
    report: Report,
    fail_on: str,
    *,
    known: Baseline | None = None,
    file: Path | None = None,
    update: bool = False,
) -> None:
    """Exit with FINDINGS if the report has what the gate names. Exit with UNJUDGED where it has not, but no
    rule of a word was checked, or the call was not seen to its end. Says what was not checked.

    known: what does not fail, of `file`; update: it is written anew instead."""
    for each in gate.unjudged(report):
        say(f"warning: --fail-on rests on {each.rule} {each.name}, which was not checked: {each.why}.")
    if known is not None and file is not None and update:
        from diffprof.guard.baseline import save_baseline, target_name

        save_baseline(known.with_target(target_name(report), report.all_findings), file)
        say(f"{len(report.all_findings)} findings are known in {file}.")
    elif hits := _failing(gate, report, known):
        say(f"{f'--fail-on {fail_on}' if fail_on else f'not in {file}'}: {len(hits)} found.")
        raise click.exceptions.Exit(ExitCode.FINDINGS)
    blind = gate.blind(report)
    if blind:
        say(f"--fail-on {', '.join(blind)}: not judged, for nothing that it stands for was checked.")
    elif gate and (partial := [each.recording for each in report.each if each.recording.partial]):
        say(f"--fail-on {fail_on}: not judged, for the report is partial: {partial[0].failure}")
    elif missing := gate.not_reached(report):
        say(f"--fail-on {fail_on}: not judged, for {missing[0].what} was not scanned: {missing[0].why}.")
    else:
        return
    raise click.exceptions.Exit(ExitCode.UNJUDGED)


def _failing(gate: Gate, report: Report, known: Baseline | None) -> tuple[Finding, ...]:
    """What the gate names, or with a baseline and no gate all that is at a line; without what is known. New
    ones are said."""
    if known is None:
        return gate.hits(report)
    from diffprof.guard.baseline import target_name
    from diffprof.judge.comparing import happens
    from diffprof.views.concise import line

    named = gate.hits(report) if gate else tuple(filter(happens, report.all_findings))
    new = known.new(target_name(report), named)
    for each in new:
        say(f"new: {line(each)}")
    return new
