"""A plan and its outcomes as text and markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from diffprof.judge.capturing import capturable_said
from diffprof.model import units
from diffprof.model.fix import NOT_SELECTED, Difference, Outcome, Plan, PlanStep, SourceEdit, Status
from diffprof.model.plain import clean, clean_lines
from diffprof.model.report import Report, as_json
from diffprof.views import words
from diffprof.views.page import Page
from diffprof.views.table import Table
from diffprof.views.verdict import does_not_fit, fit_command

FORMS = ("text", "json", "markdown")

_COLOURS = {
    Status.KEPT: "green",
    Status.KEPT_UNCHECKED: "yellow",
    Status.UNCHECKED: "yellow",
    Status.UNDONE: "yellow",
    Status.FAILED: "red",
    Status.INTERRUPTED: "red",
    Status.SKIPPED: "dim",
    Status.ADVICE: "dim",
}
_MOST_DEFINITIONS = 30
"""Longer code is shown without its definitions."""
_MOST_CODE = 60
"""Lines of code that text shows of one fix; JSON has it whole."""


# --- in words -------------------------------------------------------------------------------------------


def saving(step: PlanStep) -> str:
    """What a step is expected to save."""
    parts = []
    if step.saves_ms is not None:
        grade = f" ({words.expectation(step.grade)})" if step.grade else ""
        when = " once it is compiled" if step.once_compiled else ""
        cost = "nothing: it costs " if step.saves_ms < 0 else ""
        saved = f"{cost}{units.milliseconds(abs(step.saves_ms))}"
        parts.append(f"{saved} per call{' by itself' * step.alone}{when}{grade}")
    if step.saves_bytes is not None:
        more = "" if step.saves_bytes >= 0 else "it takes "
        parts.append(f"{more}{units.size(abs(step.saves_bytes))} of memory")
    return ", ".join(parts) or "unknown until it is tried"


def safety(step: PlanStep) -> str:
    """The safety, with the tolerance where there is one."""
    return f"{step.safety}, within {step.tolerance:g}" if step.tolerance is not None else str(step.safety)


def resolves(step: PlanStep) -> str:
    """The findings that a step is for."""
    return f"{units.plural(len(step.findings), 'finding')} ({', '.join(step.rules)})"


def expected(plan: Plan) -> str:
    """One call before and with all selected steps, in a sentence; empty where nothing says how long it is."""
    if plan.before_ms is None or plan.after_ms is None:
        return ""
    now = f"One call takes {units.milliseconds(plan.before_ms)}"
    chosen = units.plural(len(plan.selected), "selected fix", "selected fixes")
    unknown = [step for step in plan.selected if step.saves_ms is None]
    if unknown and len(unknown) == len(plan.selected):
        grade = f" ({plan.grade})" if plan.grade else ""
        return f"{now}{grade}; what the {chosen} would save is unknown until they are tried."
    grade = f" ({words.expectation(plan.grade)})" if plan.grade else ""
    more = plan.after_ms - plan.before_ms
    ratio = f", {plan.before_ms / plan.after_ms:.2f}x" if plan.after_ms else ""
    ratio = f", {units.milliseconds(more)} longer" if more > 0 else ratio
    rest = f" What {len(unknown)} of them would save is unknown until they are tried." if unknown else ""
    return f"{now}; the {chosen} should bring it to {units.milliseconds(plan.after_ms)}{ratio}{grade}.{rest}"


def room_said(report: Report, after: Report | None = None) -> str:
    """What a call lacks of memory that does not fit, before and after what was kept, and how it fits; empty
    where it fits."""
    short = does_not_fit(report.recording)
    if not short:
        return ""
    command = fit_command(report.recording)
    how = f" `{command}` finds how it fits, with code." if command else ""
    times = " Times are those of a call that had the memory."
    if after is None:
        return f"{short}{how}{times}"
    left = does_not_fit(after.recording)
    then = f" With what was kept: {left[:1].lower()}{left[1:]}" if left else " With what was kept it fits."
    return f"{short}{then}{how if left else ''}{times}"


def change(outcome: Outcome) -> str:
    """The time of one call before and after, with its grade."""
    if outcome.before_ms is None or outcome.after_ms is None:
        return units.NOT_MEASURED
    spread = "" if outcome.spread_ms is None else f" ± {units.number(outcome.spread_ms)}"
    grade = f" ({outcome.grade})" if outcome.grade else ""
    before, after = units.number(outcome.before_ms), units.number(outcome.after_ms)
    return f"{before} -> {after}{spread} ms{grade}"


def output_change(difference: Difference | None) -> str:
    """How the output changed, and where that was compared."""
    if difference is None:
        return units.NOT_MEASURED
    if difference.why_not:
        return f"not compared: {difference.why_not}"
    if difference.bit_equal:
        return f"bit-identical, on {difference.compared_on}"
    parts = []
    if difference.max_abs is not None:
        parts.append(f"max {difference.max_abs:.2g}")
    if difference.psnr_db is not None:
        parts.append(f"PSNR {difference.psnr_db:.1f} dB")
    if difference.ssim is not None:
        parts.append(f"SSIM {difference.ssim:.4f}")
    if not difference.max_abs and difference.latents_max_abs is not None:
        parts.append(f"latents max {difference.latents_max_abs:.2g}")
    return f"{', '.join(parts) or 'changed'}, on {difference.compared_on}"


def outcomes_table(outcomes: Sequence[Outcome]) -> Table:
    """One row a fix that was tried."""
    rows = tuple(
        (
            outcome.status,
            outcome.fix,
            outcome.safety,
            change(outcome),
            _loop(outcome),
            output_change(outcome.difference),
        )
        for outcome in outcomes
    )
    return Table(
        "Fixes tried", ("", "fix", "safety", "one call", "waits in loop", "output"), rows, total(outcomes)
    )


def _loop(outcome: Outcome) -> str:
    if outcome.in_loop_before is None or outcome.in_loop_after is None:
        return units.NOT_MEASURED
    return f"{outcome.in_loop_before} -> {outcome.in_loop_after}"


def total(outcomes: Sequence[Outcome]) -> str:
    """What all kept fixes gave together, in a sentence."""
    kept = [o for o in outcomes if o.stays]
    text = f"{len(kept)} of {units.plural(len(outcomes), 'fix', 'fixes')} kept"
    rest = f".{unchecked(outcomes)}"
    if (times := _times(outcomes)) is None:
        return f"{text}{rest}"
    first, last, grade = times
    span = f"{units.milliseconds(first)} -> {units.milliseconds(last)}"
    return f"{text}: {span} per call, {first / last:.2f}x{grade}{rest}"


def unchecked(outcomes: Sequence[Outcome]) -> str:
    """Which fixes' outputs could not be compared, as sentences behind another; empty where all were."""
    left = [o.fix for o in outcomes if o.status is Status.UNCHECKED]
    kept = ", ".join(o.fix for o in outcomes if o.status is Status.KEPT_UNCHECKED)
    said = f" Kept unchecked: {kept}." if kept else ""
    if not left:
        return said
    them = "it" if len(left) == 1 else "them"
    return f"{said} Not kept, since unchecked: {', '.join(left)} (--keep-unchecked keeps {them})."


def tried(outcomes: Sequence[Outcome]) -> str:
    """`total` of the fixes that were asked for."""
    return total([outcome for outcome in outcomes if outcome.why != NOT_SELECTED])


def gained(outcomes: Sequence[Outcome]) -> str:
    """One call with the kept fixes, and how many times shorter that is; empty where no time says so."""
    times = _times(outcomes)
    return "" if times is None else f"{units.milliseconds(times[1])}, {times[0] / times[1]:.2f}x{times[2]}"


def _times(outcomes: Sequence[Outcome]) -> tuple[float, float, str] | None:
    """(ms of a call before all, after the kept ones, the grade in brackets)."""
    kept = [o for o in outcomes if o.stays]
    timed = [o for o in outcomes if o.before_ms is not None and o.after_ms is not None]
    if not kept or not timed:
        return None
    first = timed[0].before_ms
    last = next((o.after_ms for o in reversed(kept) if o.after_ms is not None), first)
    return (first, last, f" ({timed[0].grade})" if timed[0].grade else "") if first and last else None


def of_each(shown: Mapping[str, str], form: str) -> str:
    """What is shown of each pipeline of a script, in one of FORMS: the texts by name, one under the other, or
    as JSON the first document with the others in `pipelines`."""
    if len(shown) == 1:
        return next(iter(shown.values()))
    if form == "json":
        first, *others = ({"pipeline": name, **msgspec.json.decode(text)} for name, text in shown.items())
        return as_json(first | {"pipelines": others}).decode()
    mark = "## " if form == "markdown" else ""
    return "\n".join(f"{mark}{clean(name)}\n\n{text}" for name, text in shown.items())


# --- the plan -------------------------------------------------------------------------------------------


def render_plan(
    report: Report, plan: Plan, form: str = "text", *, columns: int | None = None, colour: bool = False
) -> str:
    """The plan of a report in one of FORMS, ending in a newline; outcomes too where the report has them."""
    if form == "json":
        lacking = room_said(report) or None
        document = {"plan": plan, "outcomes": report.outcomes, "after": report.after, "memory": lacking}
        given = {key: value for key, value in document.items() if key == "plan" or value is not None}
        return as_json(given).decode()
    if form == "markdown":
        return _markdown(report, plan)
    page = Page(columns, colour=colour)
    page.flow(("dim", words.subject(report.recording)))
    if said := room_said(report):
        page.flow(("red", said))
    if not plan.steps:
        page.flow("No finding of this run names a fix.")
        for note in plan.notes:
            page.flow(note)
        _own_source(page, report, plan)
        return page.text()
    page.flow(expected(plan))
    for note in plan.notes:
        page.flow(("dim", note))
    for number, step in enumerate(plan.listed, 1):
        _step(page, number, step)
    _own_source(page, report, plan)
    page.blank()
    page.flow(("bold", _next(report, plan)))
    return page.text()


def _own_source(page: Page, report: Report, plan: Plan) -> None:
    """What no fix is for, in the user's own files."""
    edits = without_fix(report, plan)
    if edits:
        page.heading("In your own source, beside the fixes")
    for edit in edits:
        page.blank()
        page.flow(
            ("code", edit.rule),
            f"{edit.file}:{edit.line}",
            "; ".join(edit.what) or f"no edit: {edit.why_not}",
        )
        _listing(page, edit.diff, diff=True)


def without_fix(report: Report, plan: Plan) -> list[SourceEdit]:
    """Edits of findings that no step of the plan is for."""
    for_fixes = {n for step in plan.steps for n in step.findings}
    beside = [finding for n, finding in enumerate(report.findings) if n not in for_fixes]
    return [edit for edit in plan.edits if any(edit.belongs_to(finding) for finding in beside)]


def _step(page: Page, number: int, step: PlanStep) -> None:
    page.blank()
    box = " · " if step.is_advice else "[x]" if step.selected else "[ ]"
    style = "bold" if step.selected else "dim"
    page.flow(("code", step.fix), step.title, label=f"{number}. {box}", label_style=style)
    if not step.selected and step.why_not:
        page.flow(("yellow", step.why_not), indent=2, label="advice" if step.is_advice else "left out")
    if not step.is_advice:
        page.flow(safety(step), indent=2, label="safety")
    page.flow(resolves(step), indent=2, label="resolves")
    page.flow(saving(step), indent=2, label="saves")
    for other, why in step.conflicts.items():
        if other != step.gives_way_to:
            page.flow(f"{other}: {why}", indent=2, label="not with")
    if step.why:
        page.flow(step.why, indent=2, label="why")
    _code_listing(page, step.code)
    if step.patch:
        page.flow("or in your own source:", indent=2)
        _listing(page, step.patch, diff=True)
    if step.no_patch:
        page.flow(step.no_patch, indent=2, label="no edit")


def _code_listing(page: Page, source: str) -> None:
    """Long definitions are left out, and the statements after them kept: they say what is done to what."""
    lines = source.rstrip("\n").splitlines()
    end = _end_of_definitions(source) if len(lines) > _MOST_DEFINITIONS else 0
    if end:
        page.raw(("dim", f"# {end} lines of imports and definitions (--format json has them)"), indent=4)
    _listing(page, "\n".join(lines[end:]).strip("\n"), diff=False)


def _end_of_definitions(source: str) -> int:
    """The last line of the last function or class; 0 where there is none, or it is no Python."""
    import ast

    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError):
        return 0
    kinds = (ast.FunctionDef, ast.ClassDef)
    return max((node.end_lineno or 0 for node in body if isinstance(node, kinds)), default=0)


def _listing(page: Page, source: str, *, diff: bool) -> None:
    lines = clean_lines(source.rstrip("\n")) if source else []
    for text in lines[:_MOST_CODE]:
        page.raw((_code_style(text, diff=diff), text), indent=4)
    if len(lines) > _MOST_CODE:
        page.raw(("dim", f"... {len(lines) - _MOST_CODE} more lines (--format json has all)"), indent=4)


def _code_style(text: str, *, diff: bool) -> str:
    if diff and text.startswith("+"):
        return "green"
    if diff and text.startswith("-"):
        return "red"
    return "dim"


def _next(report: Report, plan: Plan) -> str:
    run = f" {Path(report.path).name}" if report.path else ""
    if not plan.selected:
        lossy = any(step.safety == "lossy" and not step.selected for step in plan.steps)
        return "Nothing is selected." + (" --lossy allows what changes the image." if lossy else "")
    target = report.recording.target
    if target.fixed:
        return (
            "Nothing was changed. They come on top of fixes: --apply takes the run that this one came from."
        )
    if target.kind == "trace":
        return "Nothing was changed. A trace has no pipeline to try them on: scan the target itself for that."
    if target.kind == "object":
        return "Nothing was changed. `diffprof.optimize(pipe, **call)` tries them on the live pipeline."
    return (
        f"Nothing was changed. `diffprof fix{run} --apply` tries each selected fix, compares the output, "
        "keeps what helps, and writes optimized.py."
    )


def _markdown(report: Report, plan: Plan) -> str:
    """Cut to fit a comment: the plan and its outcomes first, then as many listings as there is room for."""
    from diffprof.views.markdown_text import LIMIT, code, prose, table

    parts = [f"### diffprof fix: {prose(words.subject(report.recording))}\n"]
    if lacking := room_said(report):
        parts.append(f"{prose(lacking)}\n")
    if text := expected(plan):
        parts.append(f"{prose(text)}\n")
    rows = [
        (
            "x" if step.selected else "",
            step.fix,
            step.title,
            safety(step),
            resolves(step),
            saving(step),
            step.why_not or "; ".join(f"not with {key}: {why}" for key, why in step.conflicts.items()),
        )
        for step in plan.listed
    ]
    parts.append(table(("", "fix", "what", "safety", "resolves", "saves", "note"), rows))
    if report.outcomes is not None:
        found = outcomes_table(report.outcomes)
        parts.append(f"#### {found.title}\n\n{table(found.columns, found.rows)}\n{prose(found.note)}\n")
    listings = [
        f"#### {code(step.fix)}\n\n" + "\n".join(fenced(text, diff=diff) for text, diff in shown)
        for step in plan.listed
        if (shown := [(text, diff) for text, diff in ((step.code, False), (step.patch, True)) if text])
    ]
    for edit in without_fix(report, plan):
        head = f"#### {code(edit.rule)} {code(f'{edit.file}:{edit.line}')}\n\n"
        said = prose("; ".join(edit.what) or f"no edit: {edit.why_not}")
        listings.append(f"{head}{said}\n" + (f"\n{fenced(edit.diff, diff=True)}" if edit.diff else ""))
    room = LIMIT - sum(map(len, parts))
    for number, listing in enumerate(listings):
        room -= len(listing) + 1
        if room < 0:
            left = units.plural(len(listings) - number, "more listing")
            parts.append(f"_Cut to fit a comment: {left}; `diffprof fix` prints them._\n")
            break
        parts.append(listing)
    return "\n".join(parts)


def fenced(source: str, *, diff: bool = False) -> str:
    """A code block whose fence is longer than any run of backticks in it."""
    import re

    longest = max((len(run) for run in re.findall(r"`+", source)), default=0)
    fence = "`" * max(3, longest + 1)
    lines = "\n".join(clean_lines(source.rstrip("\n")))
    return f"{fence}{'diff' if diff else 'python'}\n{lines}\n{fence}\n"


# --- outcomes -------------------------------------------------------------------------------------------


def render_applied(
    report: Report,
    after: Report | None,
    form: str = "text",
    *,
    columns: int | None = None,
    colour: bool = False,
) -> str:
    """What became of each fix, in one of FORMS, ending in a newline. after: the scan with what was kept."""
    if form == "json":
        document = {"plan": report.plan, "outcomes": report.outcomes, "after": after}
        lacking = room_said(report, after)
        return as_json(document | {"memory": lacking} if lacking else document).decode()
    if form == "markdown":
        from diffprof.views.markdown_text import code, prose, table

        found = outcomes_table(report.outcomes or ())
        why = [f"- {code(o.fix)}: {prose(o.why)}\n" for o in report.outcomes or () if o.why]
        head = f"### diffprof fix: {prose(words.subject(report.recording))}\n\n"
        head += f"{prose(lacking)}\n\n" if (lacking := room_said(report, after)) else ""
        return f"{head}{table(found.columns, found.rows)}\n{''.join(why)}\n{prose(found.note)}\n"
    page = Page(columns, colour=colour)
    page.flow(("dim", words.subject(report.recording)))
    if lacking := room_said(report, after):
        page.flow(("red", lacking))
    add_outcomes(page, report)
    if after is not None and report.plan is not None and report.plan.goal == "no-waits":
        for note in capturable_said(after.recording):
            page.flow(note)
    if report.path:
        page.whole(("dim", f"Stored in {report.path}"))
        page.flow(("bold", _after_trying(report)))
    return page.text()


def _after_trying(report: Report) -> str:
    """What to type next."""
    run = Path(report.path or "").name
    outcomes = report.outcomes or ()
    if any(outcome.status is Status.UNCHECKED for outcome in outcomes):
        return f"Next: `diffprof fix {run} --apply --keep-unchecked` keeps what could not be checked."
    if report.after:
        return f"Next: `diffprof compare {run} {report.after}` shows what changed; optimized.py has the code."
    steps = report.plan.steps if report.plan else ()
    if any(step.safety == "lossy" and not step.selected for step in steps):
        return f"Next: `diffprof fix {run} --apply --lossy` also tries what changes the image."
    return f"Next: `diffprof show {run}` has the findings, with what to change by hand."


def add_outcomes(page: Page, report: Report) -> None:
    """The section on a page; nothing where no fix was tried."""
    if report.outcomes is None:
        return
    passed_over = [outcome for outcome in report.outcomes if outcome.why == NOT_SELECTED]
    asked = [outcome for outcome in report.outcomes if outcome not in passed_over]
    page.heading(f"Fixes tried ({len(asked):,})")
    for outcome in asked:
        page.blank()
        page.flow((_COLOURS[outcome.status], f"{outcome.status}"), ("code", outcome.fix), outcome.title)
        if outcome.status in (Status.SKIPPED, Status.ADVICE):
            page.flow(outcome.why, indent=2)
            continue
        page.flow(change(outcome), indent=2, label="one call")
        if outcome.in_loop_before is not None:
            page.flow(_loop(outcome), indent=2, label="waits")
        if outcome.memory_before_bytes is not None and outcome.memory_after_bytes is not None:
            before, after = units.size(outcome.memory_before_bytes), units.size(outcome.memory_after_bytes)
            page.flow(f"{before} -> {after}", indent=2, label="memory")
        page.flow(output_change(outcome.difference), indent=2, label="output")
        if outcome.resolved:
            page.flow(", ".join(outcome.resolved), indent=2, label="resolved")
        if outcome.remaining:
            page.flow(", ".join(outcome.remaining), indent=2, label="remains")
        if outcome.why:
            page.flow(outcome.why, indent=2, label="why")
    page.blank()
    if passed_over:
        page.flow(f"Not selected: {', '.join(outcome.fix for outcome in passed_over)}.")
    page.flow(("bold", total(asked)))
    if report.after:
        page.flow(f"The scan after them is the run {report.after}.")
