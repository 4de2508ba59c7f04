"""The plan: which fixes a report calls for, in which order, and what they would buy. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from msgspec.structs import replace

from diffprof.judge.capturing import capturable_said
from diffprof.judge.figures import call_ms, card_call_ms
from diffprof.judge.planned_edits import edits_now, with_patches
from diffprof.judge.pricing import left_out, removal
from diffprof.judge.recipes import recipes
from diffprof.judge.setup_costs import (
    BUILT_ON,
    cost_of_waits,
    loaded_ms,
    saved_ms,
    with_changes,
)
from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import Without, total_us
from diffprof.model.errors import UsageError
from diffprof.model.finding import Evidence, Finding
from diffprof.model.fix import NOT_SELECTED, Code, Plan, PlanStep, Recipe, Safety, Skipped, Stage
from diffprof.model.recording import Alternative, Change, Grade, Recording
from diffprof.model.recording.source_text import shell
from diffprof.model.report import Report

GOALS = ("latency", "memory", "no-waits")
"""no-waits: as latency, but an exact fix that removes waits from the loop may cost a little."""

LONGER = "the call would take longer with it"
"""Why a step is left out that saves less than nothing."""


@dataclass(frozen=True)
class Choice:
    """What the caller wants of a plan. select, ignore: fix keys, rule codes, or prefixes of codes such as
    SYN; an empty select means all. lossy: allow fixes that change the image. keep_unchecked: keep what
    helps also where its output could not be compared. shims: allow interpreters where no plain code is
    known."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    lossy: bool = False
    goal: str = "latency"
    keep_unchecked: bool = False
    shims: bool = False


def make_plan(report: Report, choice: Choice | None = None) -> Plan:
    """The fixes that a report's findings name, in the order in which they would be applied.

    Raises UsageError for a selection that matches no fix and no rule, and for an unknown goal.
    """
    choice = choice or Choice()
    if choice.goal not in GOALS:
        raise UsageError(f"There is no goal {choice.goal!r}.", f"Choose from: {', '.join(GOALS)}.")
    _check(choice, recipes(), report)
    steps = _without_losses(selected(priced_steps(report, shims=choice.shims), choice), report, choice.goal)
    recording = report.recording
    timeline = recording.timeline
    chosen = [step.fix for step in steps if step.selected]
    edits = edits_now(report)
    before, after = call_ms(recording), predicted_ms(report, steps, chosen)
    return Plan(
        goal=choice.goal,
        steps=with_patches(steps, report, edits),
        edits=edits,
        before_ms=before,
        after_ms=after,
        saves_ms=None if before is None or after is None else before - after,
        grade=timeline.grade if timeline else recording.timing.grade if recording.timing else None,
        notes=(*_own_files(report), *(capturable_said(recording) if choice.goal == "no-waits" else ())),
    )


def priced_steps(report: Report, *, shims: bool = False) -> list[PlanStep]:
    """Every fix that the findings name, with its code and what it saves alone; none is chosen yet."""
    wanted, known, before = _wanted(report), recipes(), call_ms(report.recording)
    return [_step(known[key], wanted[key], report, before, shims=shims) for key in known if key in wanted]


def selected(steps: Iterable[PlanStep], choice: Choice) -> list[PlanStep]:
    """The same steps, with what a choice takes and leaves."""
    known = recipes()
    chosen = []
    for step in steps:
        why_not = step.why_not or _not_chosen(known[step.fix], step, choice)
        chosen.append(replace(step, selected=why_not is None, why_not=why_not))
    return _without_conflicts(chosen, known)


def _own_files(report: Report) -> Iterator[str]:
    """What lies in the user's own files, and can be edited there."""
    found: dict[str, int] = {}
    for finding in report.findings:
        if finding.site is not None and finding.site.user_code:
            found[finding.site.file] = found.get(finding.site.file, 0) + 1
    for file, count in sorted(found.items()):
        many = "finding lies" if count == 1 else "findings lie"
        command = f"diffprof fix --patch {shell(file)}"
        yield f"{count} {many} in {file}, which is yours: `{command}` shows what to edit."


def predicted_ms(
    report: Report, steps: Iterable[PlanStep], chosen: Iterable[str], *, before: float | None = None
) -> float | None:
    """The length of a call with these fixes together, per call.

    Changes of the setup that the call was costed with are read off, all of them together. Evidence that names
    parts of the timeline is left out of one replay, all of it together, so waits that hide each other are
    counted once. Where no finding of a fix names parts, what it saves is a share of the
    call, and shares multiply; a share of the compiled call counts where it is compiled, or will be. None
    where no clock or timeline says how long the call is. before: `call_ms`, where it is at hand.
    """
    recording = report.recording
    before = call_ms(recording) if before is None else before
    if before is None:
        return None
    keys = set(chosen)
    picked = [step for step in steps if step.fix in keys]
    compiled = _is_compiled(recording) or any(step.stage == Stage.COMPILE for step in picked)
    replayed, shares, changes = [], [], set()
    for step in picked:
        change = costed_change(step.fix, recording)
        if change is not None:
            changes.add(change)
            continue
        own = [report.findings[n] for n in step.findings]
        in_timeline = [f for f in own if _replayable(f, recording) and not f.compiled_ms]
        replayed += in_timeline
        if in_timeline or not before:
            continue
        of_all = sum(f.saves_ms or 0.0 for f in own if not f.compiled_ms) / before
        of_compiled = sum((f.saves_ms or 0.0) / f.compiled_ms for f in own if f.compiled_ms and compiled)
        shares.append(min(of_all + of_compiled, 1.0))
    if not compiled:
        changes -= BUILT_ON.keys()
    after = _replayed_ms(replayed, changes, before, recording)
    for share in shares:
        after *= 1.0 - share
    return after


def _replayed_ms(
    findings: Sequence[Finding], changes: Iterable[Change], before: float, recording: Recording
) -> float:
    """Length of the call with these changes made, and without these findings.

    What the loop's waits cost depends on the changes: a compiled call has less work queued to hide them. What
    offloading costs is known for each. What else is left out saves its share of the call.
    """
    timeline = recording.timeline
    if timeline is None or not timeline.host_us:
        return before
    without = without_all(findings, recording)
    if {Change.COMPILED, Change.COMPILED_BLOCKS} & set(changes):  # its modules cost no Python either way
        without = replace(without, whole=frozenset())
    # Of the call as it was clocked: the profiled one, of which the timeline is, may have taken longer.
    saved = (total_us(timeline) - total_us(timeline, without)) / 1e3 if without else 0.0
    after = max(0.0, before - saved)
    plain, changed = with_changes(recording, ()), with_changes(recording, changes)
    if plain is None or changed is None or not changed.changes:
        return after
    syncs = recording.syncs or ()
    moved = {n for n, row in enumerate(syncs) if row.offload}
    looped = {n for n, row in enumerate(syncs) if row.in_loop} - moved
    if moved and moved <= without.waits:
        after += plain.ms - loaded_ms(plain)
        plain, changed = (replace(each, ms=loaded_ms(each)) for each in (plain, changed))
    now, then = _cost_of_some(looped & without.waits, looped, recording, plain, changed)
    rest = max(0.0, before - after - now)
    return changed.ms - then - rest * changed.ms / plain.ms


def _cost_of_some(
    removed: Set[int], looped: Set[int], recording: Recording, plain: Alternative, changed: Alternative
) -> tuple[float, float]:
    """Milliseconds that go with some of the loop's waits, as the call was recorded and with changes made.

    What the waits cost now goes by what the replay gives without these. What changes uncover is gained in the
    steps that have no wait left: another one drains the queue as well.
    """
    timeline = recording.timeline
    assert timeline is not None
    now, then = cost_of_waits(plain), cost_of_waits(changed)
    if not removed or removed == looped:
        return (now, then) if removed else (0.0, 0.0)
    without = left_out(Evidence(syncs=tuple(sorted(removed))), timeline, recording.syncs or ())
    gone = min(max(0.0, total_us(timeline) - total_us(timeline, without)) / 1e3, max(now, 0.0))
    waiting = [rows for first, last in steps_of(timeline) if (rows := looped & {*timeline.sync[first:last]})]
    free = sum(rows <= removed for rows in waiting) / len(waiting) if waiting else 0.0
    share = gone / now if now > 0.0 else 0.0
    return gone, share * min(now, then) + free * max(0.0, then - now)


def at_card_steps_ms(
    recording: Recording, changes: Iterable[Change], ms: float, *, once_ms: float = 0.0
) -> float | None:
    """What a call that takes `ms` with these changes of the setup takes at the model card's steps, where
    fewer were made: the changes as they were costed there; what else is saved is saved in every step, but
    for `once_ms` of it. None where no step repeats one before."""
    target, card, now = recording.target, card_call_ms(recording), call_ms(recording)
    if card is None or now is None or not target.steps or target.card_steps is None:
        return None
    changes = set(changes)
    if not _is_compiled(recording) and not changes & {Change.COMPILED, Change.COMPILED_BLOCKS}:
        changes -= BUILT_ON.keys()
    if changes:
        made = with_changes(recording, changes)
        if made is None or made.card_ms is None:
            return None
        card, now = made.card_ms, made.ms
    return max(0.0, card - once_ms - (now - ms - once_ms) * target.card_steps / target.steps)


def costed_change(fix: str, recording: Recording) -> Change | None:
    """The change of the setup that a fix makes, where the call was costed with it."""
    recipe = recipes().get(fix)
    change = recipe.change if recipe is not None else None
    costs = recording.setup.costs if recording.setup else None
    if change is None or saved_ms(recording, change) is None:
        return None
    other_half = change is Change.HALF and costs is not None and costs.half != fix
    own_choice = change is Change.INT8 and recording.quantization is not None
    return None if other_half or own_choice else change


def without_all(findings: Sequence[Finding], recording: Recording) -> Without:
    """What to leave out of the timeline when all of these are resolved.

    A kind of kernel that several of them make faster gets faster by the product of their ratios, on the CPU
    as on the device.
    """
    waits: set[int] = set()
    events: set[int] = set()
    whole: set[int] = set()
    ratio: dict[int, float] = {}
    host: dict[int, float] = {}
    timeline = recording.timeline
    if timeline is None:
        return Without()
    merged: dict[Evidence, Without] = {f.evidence: removal(f.evidence, recording) for f in findings}
    for each in merged.values():
        waits |= each.waits
        events |= each.events
        whole |= each.whole
        for kind, becomes in each.kind_us.items():
            was = timeline.kinds[kind].device_us or 0.0
            ratio[kind] = ratio.get(kind, 1.0) * (min(becomes / was, 1.0) if was else 1.0)
        for kind, left in each.kind_host.items():
            host[kind] = host.get(kind, 1.0) * left
    kind_us = {kind: (timeline.kinds[kind].device_us or 0.0) * part for kind, part in ratio.items()}
    return Without(
        waits=frozenset(waits),
        events=frozenset(events),
        whole=frozenset(whole),
        kind_us=kind_us,
        kind_host=host,
    )


def _replayable(finding: Finding, recording: Recording) -> bool:
    return bool(recording.timeline and recording.timeline.host_us and removal(finding.evidence, recording))


def _is_compiled(recording: Recording) -> bool:
    return recording.timeline is not None and recording.timeline.mode != "eager"


def _wanted(report: Report) -> dict[str, list[int]]:
    """Fix key -> indexes of the findings that name it."""
    found: dict[str, list[int]] = {}
    for n, finding in enumerate(report.findings):
        for key in finding.fixes:
            found.setdefault(key, []).append(n)
    return found


def _step(
    recipe: Recipe, indexes: list[int], report: Report, before: float | None, *, shims: bool
) -> PlanStep:
    fix = recipe.fix
    own = [report.findings[n] for n in indexes]
    code = recipe.written(report.recording, own, shims=shims)
    step = PlanStep(
        fix=fix.key,
        title=(_is_compiled(report.recording) and fix.once_compiled) or fix.title,
        safety=fix.safety,
        stage=int(fix.stage),
        tolerance=fix.tolerance,
        rules=tuple(dict.fromkeys(f.rule for f in own)),
        findings=tuple(indexes),
        code=code.shown if isinstance(code, Code) else "",
        why=fix.why,
    )
    alike = costed_change(fix.key, report.recording) in (None, own[0].evidence.change)
    if before is not None and alike and len(own) == 1 and own[0].saves_ms and not own[0].compiled_ms:
        return _coded(replace(step, saves_ms=own[0].saves_ms, alone=True, grade=grade_of(own)), code)
    alone = predicted_ms(report, [step], [fix.key], before=before)
    known = any(f.saves_ms is not None for f in own) and alone is not None and before is not None
    if known:
        assert alone is not None
        assert before is not None
        step = replace(step, saves_ms=before - alone, alone=True, grade=grade_of(own))
        if all(f.compiled_ms for f in own) and not _is_compiled(report.recording):
            step = replace(step, saves_ms=sum(f.saves_ms or 0.0 for f in own), once_compiled=True)
    return _coded(step, code)


def _coded(step: PlanStep, code: Code | Skipped) -> PlanStep:
    return step if isinstance(code, Code) else replace(step, why_not=code.why)


def grade_of(findings: Sequence[Finding]) -> Grade:
    """Of a figure that rests on several: measured only if all are."""
    grades = {finding.grade for finding in findings}
    return Grade.MEASURED if grades == {Grade.MEASURED} else Grade.SIMULATED


def _not_chosen(recipe: Recipe, step: PlanStep, choice: Choice) -> str | None:
    fix = recipe.fix
    if choice.select and not _named(step, choice.select):
        return NOT_SELECTED
    if _named(step, choice.ignore):
        return "ignored"
    if fix.safety is Safety.ADVICE:
        return "yours to decide; diffprof shows it and never applies it"
    if fix.safety is Safety.LOSSY and not choice.lossy:
        return "lossy: it changes the image; allow it with --lossy"
    if _purpose(choice.goal) not in fix.goals and not _named(step, choice.select):
        return f"serves {', '.join(fix.goals)}, not {choice.goal}"
    return None


def _purpose(goal: str) -> str:
    """What a fix has to be good for: waits are removed by those for latency."""
    return "latency" if goal == "no-waits" else goal


def _named(step: PlanStep, words: Sequence[str]) -> bool:
    return any(
        word == step.fix or any(code.startswith(word.upper()) for code in step.rules) for word in words
    )


def asked_for(plan: Plan, choice: Choice) -> frozenset[str]:
    """The selected fixes that the caller named or, being lossy, allowed to change the image."""
    return frozenset(step.fix for step in plan.selected if choice.lossy or _named(step, choice.select))


def _check(choice: Choice, known: Mapping[str, Recipe], report: Report) -> None:
    from diffprof.judge.rules import all_rules

    codes = [rule.code for rule in all_rules()]
    for word in (*choice.select, *choice.ignore):
        if word in known or any(code.startswith(word.upper()) for code in codes):
            continue
        from difflib import get_close_matches

        near = get_close_matches(word, [*known, *codes], n=3, cutoff=0.4)
        hint = f"Did you mean {', '.join(near)}? " if near else ""
        raise UsageError(
            f"{word!r} is neither a fix nor a rule.", f"{hint}`diffprof fix` lists the fixes of a run."
        )


def _without_losses(steps: Sequence[PlanStep], report: Report, goal: str) -> list[PlanStep]:
    """A selected step that makes the call longer, alone and beside the others, is left out; not one that is
    exact and removes waits from the loop, where those are to go."""
    left = list(steps)
    for n, step in enumerate(steps):
        waits = any(
            report.findings[each].in_loop and report.findings[each].rule[:3] == "SYN"
            for each in step.findings
        )
        if goal == "no-waits" and step.safety is Safety.EXACT and waits:
            continue
        if not step.selected or step.saves_ms is None or step.saves_ms >= 0.0:
            continue
        chosen = [each.fix for each in left if each.selected]
        with_it = predicted_ms(report, left, chosen)
        without = predicted_ms(report, left, [fix for fix in chosen if fix != step.fix])
        if with_it is not None and without is not None and with_it >= without:
            left[n] = replace(step, selected=False, why_not=LONGER)
    return left


def _without_conflicts(steps: Sequence[PlanStep], known: Mapping[str, Recipe]) -> list[PlanStep]:
    """Of two selected steps that can't stand together, the one that saves more stays."""
    present = {step.fix for step in steps}
    against: dict[str, dict[str, str]] = {step.fix: {} for step in steps}
    for key in present:
        for other, why in known[key].fix.conflicts.items():
            if other in present:
                against[key][other] = why
                against[other].setdefault(key, why)
    together: set[str] = set()
    dropped: dict[str, str] = {}
    """Fix -> the one that it gives way to."""
    for step in sorted(steps, key=lambda s: (-(s.saves_ms or 0.0), s.stage)):
        if not step.selected:
            continue
        clash = next((other for other in against[step.fix] if other in together), None)
        if clash is None:
            together.add(step.fix)
        else:
            dropped[step.fix] = clash
    return [
        replace(
            step,
            conflicts=against[step.fix],
            selected=step.selected and step.fix not in dropped,
            why_not=step.why_not or _clash(against[step.fix], dropped.get(step.fix)),
            gives_way_to=dropped.get(step.fix),
        )
        for step in steps
    ]


def _clash(against: Mapping[str, str], other: str | None) -> str | None:
    return None if other is None else f"conflicts with {other}: {against[other]}"
