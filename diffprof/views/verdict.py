"""The three lines on top of every report: what a call costs and would cost, why, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from msgspec.structs import replace

from diffprof.judge.figures import device_busy
from diffprof.judge.fitting import gib, shortfall
from diffprof.judge.pricing import HIDDEN_SHARE, waits_together
from diffprof.judge.setup_costs import uncovered_ms
from diffprof.judge.summary import COLD_CALL
from diffprof.model.finding import Finding
from diffprof.model.fix import Safety
from diffprof.model.recording import (
    INTERRUPTED,
    CaptureRow,
    Doubt,
    MemoryUse,
    Recording,
    SyncRow,
    steady_per_step,
)
from diffprof.model.recording.site import Unseen
from diffprof.model.report import Report
from diffprof.model.summary import Action, Answer
from diffprof.model.units import duration, listed, milliseconds, number, place, plural, share, size
from diffprof.views.words import cost, expectation, how_often, saving

_PHASES = {
    "denoiser": "The denoiser",
    "scheduler": "The scheduler",
    "denoise": "The loop around denoiser and scheduler",
    "encode": "Encoding",
    "prepare": "Preparing",
    "decode": "Decoding",
    "postprocess": "Postprocessing",
}
WAITS = "SYN"
"""How the codes begin of rules on waits: who asks for these alone is told of these."""


class Verdict(msgspec.Struct, frozen=True):
    """headline: the answer. why: the cause that matters most. next: what to do."""

    headline: str
    why: str
    next: str


def verdict(report: Report) -> Verdict:
    """The three lines for a report of any completeness; of several pipelines, for their calls together."""
    top = _of_several(report) if report.pipelines else _of_one(report)
    return replace(top, headline=f"{top.headline}{_left_out(report)}")


def _left_out(report: Report) -> str:
    """What the user's code asks for and the figures are without."""
    rows = (row for each in report.each for row in each.recording.unseen if row.kind == "left-out")
    named = "; ".join(dict.fromkeys(map(where_left_out, rows)))
    return f" Left out (-v): {named}." if named else ""


def where_left_out(row: Unseen) -> str:
    """`Int8Tensor weights (make.py:8)`."""
    return f"{row.what}{f' ({place(row.site)})' if row.site else ''}"


def foremost(report: Report) -> Report:
    """Of several pipelines the one that the verdict is about: that does not fit, else that has most to save,
    else that takes longest."""

    def weight(each: Report) -> tuple[bool, float, float]:
        answer = each.verdict
        now = answer.call_ms if answer and answer.call_ms is not None else 0.0
        kept = answer.kept_ms if answer and answer.kept_ms is not None else now
        return shortfall(each.recording.memory) is not None, now - kept, now

    return max(report.each, key=weight)


def _of_several(report: Report) -> Verdict:
    """The sum of a call of each; cause and cure of the one that is foremost, by its name."""
    lead = foremost(report)
    name = named(report, lead)
    why, cure = _why(lead), _next(msgspec.structs.replace(lead, path=report.path))
    together = None if shortfall(lead.recording.memory) is not None else _sum(report)
    return Verdict(together or f"{name}: {_of_one(lead).headline}", f"{name}: {why}", cure)


def named(report: Report, one: Report) -> str:
    """A pipeline of the report by its class, and by its number where others are of the same."""
    return next(name for name, each in zip(report.names, report.each, strict=True) if each is one)


def _sum(report: Report) -> str:
    """What a call of each takes together, and each; empty where one is not known."""
    answers = [each.verdict for each in report.each]
    now = [answer.call_ms for answer in answers if answer and answer.call_ms is not None]
    kept = [answer.kept_ms for answer in answers if answer and answer.kept_ms is not None]
    if len(now) < len(answers) or len(kept) < len(answers):
        return ""
    whole = any(each.recording.partial for each in report.each)
    least = "At least " if whole or _untimed(report) else ""
    parts = [f"{duration(ms)} {named(report, each)}" for ms, each in zip(now, report.each, strict=True)]
    saved = f"; {duration(sum(kept))} with the changes that keep the picture" if sum(kept) < sum(now) else ""
    grade = answers[0].grade if answers[0] else None
    return f"{least}{duration(sum(now))} a call of each ({grade}): {listed(parts)}{saved}."


def _untimed(report: Report) -> bool:
    return any(row.kind == "untimed" for each in report.each for row in each.recording.unseen)


def _of_one(report: Report) -> Verdict:
    recording = report.recording
    if recording.partial:
        return Verdict(f"Partial recording. {_seen(report)}", _ended(report), _again(recording))
    asked = report.verdict.about if report.verdict else ()
    if asked and all(code.startswith(WAITS) for code in asked) and recording.syncs is not None:
        return Verdict(_waits(recording, recording.syncs), _why(report), _next(report))
    return Verdict(_headline(report), _why(report), _next(report))


def folded(report: Report) -> Verdict:
    """The three lines folded to the number and the cure, for where each has one line of a screen."""
    whole = verdict(report)
    first = headline_finding(report)
    if (
        report.pipelines
        or report.recording.partial
        or first is None
        or shortfall(report.recording.memory) is not None
    ):
        return whole
    action = first_action(report, first)
    cure = action.title if action else first.advice.strip()
    if action and action.fix and report.path:
        cure = f"`diffprof fix --apply --select {action.fix}`"
    gain = cost(first).removesuffix(".")
    if first.saves_ms is not None:
        later = action is not None and saving(action.saves_ms) != saving(first.saves_ms)
        gain = f"{'alone ' * later}{saving(first.saves_ms)} ({expectation(first.grade)})"
    why = f"{first.rule} {first.name}; {gain}."
    return Verdict(_folded_headline(report) or whole.headline, why, cure or whole.next)


def _folded_headline(report: Report) -> str:
    """The times alone; the waits alone where the answer is about those; empty where there is neither."""
    answer, recording = report.verdict, report.recording
    asked = answer.about if answer else ()
    timed = answer is not None and answer.call_ms is not None and recording.target.kind != "trace"
    if answer is not None and timed and not (asked and all(code.startswith(WAITS) for code in asked)):
        return _folded_answer(answer, report)
    looped = [row for row in recording.syncs or () if row.in_loop]
    return (
        f"The CPU waits for the GPU {_often(looped)}." if looped and recording.target.kind != "trace" else ""
    )


def _folded_answer(answer: Answer, report: Report) -> str:
    target = report.recording.target
    unit = f"{'an' if target.makes == 'image' else 'a'} {target.makes or 'call'}"
    least = "At least " if any(each.kind == "untimed" for each in report.recording.unseen) else ""
    safe = any(each.saves_ms for each in report.actions if not each.changes_picture)
    lossy = any(each.changes_picture for each in report.actions)

    def of_one(ms: float | None) -> str:
        return duration(None if ms is None else ms / max(target.made, 1))

    text = f"{least}{_span(answer, max(target.made, 1))} {unit} ({answer.grade})"
    if safe:
        text += f"; {of_one(answer.kept_ms)} safely"
    if lossy and answer.lossy_ms is not None:
        text += f", {of_one(answer.lossy_ms)} with all" if safe else f"; {of_one(answer.lossy_ms)} with all"
    return f"{text}."


# --- the answer ------------------------------------------------------------------------------------------


def does_not_fit(recording: Recording) -> str:
    """What a call lacks of memory, in a sentence; empty where it fits."""
    short = shortfall(recording.memory)
    if short is None:
        return ""
    return (
        f"Does not fit: needs {gib(short.needs_bytes)} GiB {short.where}, the {_named_device(recording)} "
        f"has {gib(short.has_bytes)} GiB: {gib(short.lacks_bytes)} GiB short."
    )


def fit_command(recording: Recording) -> str:
    """The command that finds how a call fits which does not; empty where it does, or none is simulated."""
    target, device = recording.target, recording.device
    if (
        target.kind not in ("builtin", "checkpoint")
        or device.kind != "sim"
        or not shortfall(recording.memory)
    ):
        return ""
    return f"diffprof fit {target.spec} --device {device.spec.removeprefix('sim:')}"


def _headline(report: Report) -> str:
    answer, recording = report.verdict, report.recording
    if short := does_not_fit(recording):
        return short
    if answer is None or answer.call_ms is None:
        return _seen(report)
    if recording.target.kind != "trace":
        return _answer(answer, report)
    said = [_of_trace(answer, report)]
    busy = device_busy(recording)
    if busy is not None:
        said.append(f"The {_device(recording)} is busy for {share(busy)} of it.")
    if recording.syncs is not None:
        said.append(_waits(recording, recording.syncs))
    return " ".join(said)


def _of_trace(answer: Answer, report: Report) -> str:
    """How long it is, and what of that can be done without."""
    steps = f" of {plural(report.recording.target.steps, 'step')}" if report.recording.target.steps else ""
    now = f"The trace{steps} is {duration(answer.call_ms)} long ({answer.grade})"
    cold = next((action for action in report.actions if action.rule == COLD_CALL), None)
    if cold is not None and cold.once_ms:
        return f"{now}, {duration(cold.once_ms)} of it set-up that only a first call pays."
    if any(action.saves_ms for action in report.actions):
        return f"{now}; {duration(answer.kept_ms)} with all below done."
    return f"{now}; {_nothing_known(report)}."


def _nothing_known(report: Report) -> str:
    """Of a call that no action is known to shorten."""
    if not report.actions:
        return "nothing was found that is worth doing"
    return "what the changes below would save is not known"


def _answer(answer: Answer, report: Report) -> str:
    """Now, and with what can be done, of one image, clip or call."""
    target = report.recording.target
    made = max(target.made, 1)
    unit = f"{'an' if target.makes == 'image' else 'a'} {target.makes or 'call'}"
    steps = f" of {plural(target.steps, 'step')}" if target.steps else ""

    def of_one(ms: float | None) -> str:
        return duration(None if ms is None else ms / made)

    least = "At least " if any(each.kind == "untimed" for each in report.recording.unseen) else ""
    several = f", {_span(answer)} a call of {plural(made, target.makes or 'output')}"
    call = several if made > 1 else ""
    now = f"{least}{_span(answer, made)} {unit}{steps}{call} ({_grade(answer, report.recording)})"
    parts = []
    safe = [action for action in report.actions if not action.changes_picture]
    if any(action.saves_ms for action in safe):
        exact = all(action.safety in (Safety.EXACT, None) for action in safe)
        how = _by_hand(safe) or (
            "without changing the picture" if exact else "with the picture the same within rounding"
        )
        parts.append(f"{of_one(answer.kept_ms)} {how}")
    lossy = [
        action.short or action.fix or action.title
        for action in report.actions
        if action.changes_picture and action.saves_ms
    ]
    if lossy and answer.lossy_ms is not None:
        parts.append(f"{of_one(answer.lossy_ms)} with {listed(lossy)}")
    said = f"{now}; {', '.join(parts) or _nothing_known(report)}."
    return f"{said}{_decided(answer)}{_at_card_steps(answer, report)}{_longest(report.recording)}"


def _span(answer: Answer, made: int = 1) -> str:
    """A call as it was simulated, to one with all its steps whole where some are cut short; of one of what it
    makes, where it makes several."""
    ends = [answer.call_ms, answer.short_steps.whole_ms if answer.short_steps else None]
    return " to ".join(duration(ms / made) for ms in ends if ms is not None)


def _decided(answer: Answer) -> str:
    """By what the call is as short as it was simulated, where that is unknown."""
    short = answer.short_steps
    if short is None:
        return ""
    return (
        f" In the lower, and in all times below, {short.steps} of {short.of} steps are cut short at "
        f"{place(short.site)}: how many are hangs on values that are unknown without weights."
    )


def _at_card_steps(answer: Answer, report: Report) -> str:
    """What the model card's call takes, where fewer steps were made."""
    target = report.recording.target
    if target.card_steps is None or answer.card_ms is None:
        return ""
    made = max(target.made, 1)
    known = (answer.card_kept_ms if answer.kept_ms != answer.call_ms else None, answer.card_lossy_ms)
    then = [duration(ms / made) for ms in known if ms is not None]
    after = f", {listed(then)} then" if then else ""
    took = duration(answer.card_ms / made)
    return f" At the model card's {plural(target.card_steps, 'step')}: about {took} now{after}."


def _longest(recording: Recording) -> str:
    """What a clock saw the call spend most of its time in, where no timeline tells more."""
    phases = recording.timing.phases if recording.timing else ()
    if not phases:
        return ""
    most = max(phases, key=lambda each: each.seconds)
    of = most.seconds / (sum(each.seconds for each in phases) or 1.0)
    return f" {_PHASES[most.part or most.phase]} takes {duration(most.seconds * 1e3)} of it ({share(of)})."


def _grade(answer: Answer, recording: Recording) -> str:
    """The grade, with how far such a figure is off in nine of ten cases where that is known."""
    if recording.timing and Doubt.WATCHED in recording.timing.doubts:
        return f"{answer.grade}, with the time that watching takes"
    return f"{answer.grade}, ± {answer.margin:.0%}" if answer.margin else str(answer.grade)


def _by_hand(actions: Sequence[Action]) -> str:
    """Whose work the answer counts on, where not all of it is a fix's: what changes by hand do to the picture
    is not known."""
    hand = sum(1 for action in actions if action.saves_ms and action.fix is None)
    fixes = any(action.saves_ms and action.fix is not None for action in actions)
    if not hand:
        return ""
    also = " and the fixes that keep the picture" if fixes else ""
    return f"with {plural(hand, 'change')} by hand{also}"


def _seen(report: Report) -> str:
    """What was found, where no time of a call is known."""
    recording = report.recording
    parts = []
    from_syncs = 0
    if recording.syncs is not None:
        parts.append(_waits(recording, recording.syncs))
        from_syncs = sum(1 for f in report.findings if f.evidence.syncs)
    others = len(report.findings) - from_syncs
    if others:
        parts.append(f"{plural(others, 'finding' if recording.syncs is None else 'other finding')}.")
    if recording.syncs is None and recording.captures:
        parts.append(_graphs(recording.captures))
    if parts:
        return " ".join(parts)
    if recording.memory is not None and recording.memory.at_peak:
        return _held(recording.memory)
    if report.unchecked:
        return "Nothing was recorded that a rule could judge."
    return "Every rule was checked and nothing was found."


def _held(memory: MemoryUse) -> str:
    """Who has most of the memory when most is in use; of a memory snapshot, which holds nothing else."""
    most = next((each for each in memory.at_peak or () if each.site is not None), None)
    line = "" if most is None else f"; {size(most.bytes)} of it, the most of a line, by {place(most.site)}"
    return f"At most {size(memory.peak_bytes)} of memory in use{line}."


def _graphs(captures: Sequence[CaptureRow]) -> str:
    """What becomes of the parts that a user would compile."""
    whole = [row.component for row in captures if row.fullgraph_ready]
    if len(whole) == len(captures):
        return f"Fullgraph-ready: {', '.join(whole)}."
    broken = ", ".join(row.component for row in captures if not row.fullgraph_ready)
    rest = f"; fullgraph-ready: {', '.join(whole)}" if whole else ""
    return f"Not one graph: {broken}{rest}."


def _waits(recording: Recording, syncs: Sequence[SyncRow]) -> str:
    looped = [row for row in syncs if row.in_loop]
    outside = sum(row.count for row in syncs if not row.in_loop)
    count = sum(row.count for row in looped)
    if not count:
        if not outside and recording.partial:
            ran = "No operation ran" if recording.ops == 0 else "No operation made the CPU wait for the GPU"
            return f"{ran} until it ended."
        if not outside:
            return "No operation makes the CPU wait for the GPU."
        if recording.target.kind == "trace" and recording.target.steps is None:
            return f"The CPU waits for the {_device(recording)} {_times(outside)}{_in_all(syncs)}."
        return f"The CPU never waits for the GPU in the denoising loop, and {_times(outside)} outside it."
    sites = plural(len({(row.site.file, row.site.line) for row in looped}), "line")
    return f"The CPU waits for the GPU {_often(looped)}, at {sites}, and {_times(outside)} outside the loop."


def _often(looped: Sequence[SyncRow]) -> str:
    rate = steady_per_step(looped)
    count = sum(row.count for row in looped)
    return f"{_times(rate)} per denoising step" if rate else f"{_times(count)} in the denoising loop"


def _device(recording: Recording) -> str:
    """What the device is called: accelerators of other makers are no GPUs."""
    return "GPU" if recording.device.kind in ("cuda", "sim", "cpu", "xpu") else "device"


def _named_device(recording: Recording) -> str:
    return recording.device.name or _device(recording)


def _in_all(syncs: Sequence[SyncRow]) -> str:
    """How long, where a clock saw all of it."""
    times = [row.blocked_us for row in syncs]
    seen = [us for us in times if us is not None]
    return f", {milliseconds(sum(seen) / 1e3)} in all" if seen and len(seen) == len(times) else ""


def _times(count: float) -> str:
    words = {0.0: "never", 1.0: "once", 2.0: "twice"}
    return words.get(count) or f"{number(count)} times"


# --- the cause -------------------------------------------------------------------------------------------


def _ended(report: Report) -> str:
    """Why a recording is partial."""
    failure = report.recording.failure
    trace = report.recording.target.kind == "trace"
    if failure == INTERRUPTED:
        return f"{'Reading the trace' if trace else 'The scan'} was stopped before its end."
    if failure and trace:
        return failure
    if failure:
        return f"The run ended early: {failure.strip().splitlines()[0] if failure.strip() else failure}"
    return _why(report)


def _why(report: Report) -> str:
    memory = report.recording.memory
    if memory is not None and shortfall(memory) is not None and memory.weights_bytes:
        return f"Weights take {gib(memory.weights_bytes)} GiB of that."
    first = headline_finding(report)
    if first is None:
        return _nothing_found(report)
    action = first_action(report, first)
    if first.site is None:
        said = f"{first.rule} {first.name}: {first.message.strip().removesuffix('.')}"
    elif action and action.fix is None and len(action.findings) > 1:
        said = f"{first.rule} {first.name} at {action.place}"
    else:
        said = f"{first.rule} {first.name} at {place(first.site)}, {how_often(first)}"
    together = () if _is_of_all_waits(first, report.recording) else _together(report.recording)
    return " ".join([f"{said}; {_gain(report, first).removesuffix('.')}.", *together])


def _gain(report: Report, first: Finding) -> str:
    """What the finding costs. Where the first action says what it saves, the same figure: of all that it
    mends."""
    action = first_action(report, first)
    if action is None or action.saves_ms is None or first.saves_ms is None:
        return cost(first)
    if len(action.findings) > 1:
        by = f"the fix `{action.fix}` " if action.fix is not None else ""
        return f"{by}{saving(action.saves_ms)} ({expectation(action.grade)})"
    return cost(replace(first, saves_ms=action.saves_ms))


def headline_finding(report: Report) -> Finding | None:
    """The finding that the verdict, the first action and the first fix are about, if there is one."""
    if report.verdict is None:
        return next(iter(report.findings), None)
    told = report.verdict.finding
    return None if told is None else report.findings[told]


def _nothing_found(report: Report) -> str:
    recording = report.recording
    if report.findings:
        return _all_small(report)
    if not report.unchecked:
        return "No rule found anything in what was recorded."
    if recording.target.kind == "trace" and recording.unseen:
        return f"Not in the trace: {recording.unseen[0].what}; {recording.unseen[0].why}."
    looked = recording.captures is not None or recording.syncs is not None
    found = "Nothing was found in what was looked at; " if looked else ""
    return f"{found}{plural(len(report.unchecked), 'rule')} had no evidence: {report.unchecked[0].why}."


def _all_small(report: Report) -> str:
    """Of findings that no action stands for."""
    rest = report.rest
    found = plural(len(rest.findings), "finding")
    if rest.saves_ms is None:
        return f"{found}, of which none is known to save time."
    return f"{found}, {milliseconds(rest.saves_ms)} together."


def _is_of_all_waits(finding: Finding, recording: Recording) -> bool:
    """Whether its cost is the cost of all waits of the loop."""
    looped = {n for n, row in enumerate(recording.syncs or ()) if row.in_loop}
    return looped <= set(finding.evidence.syncs)


def _together(recording: Recording) -> Iterator[str]:
    """What the loop's waits cost together, which is what one wants to know of waits that hide each other."""
    costs = waits_together(recording)
    if costs is None or recording.timeline is None:
        return
    blocked = f"the CPU is blocked for {duration(costs.blocked_ms)}"
    lost = f"{duration(costs.saves_ms)} of the call"
    if (then := uncovered_ms(recording)) is not None:
        lost += f", {duration(then)} once it is compiled"
    grade = recording.timeline.grade
    offloads = any(row.in_loop and row.offload for row in recording.syncs or ())
    waits = "All waits of the loop but offloading's" if offloads else "All waits of the loop"
    if costs.saves_ms < costs.blocked_ms * HIDDEN_SHARE:
        yield (f"{waits} cost only {lost}: {blocked}, but the GPU has work queued then ({grade}).")
    else:
        yield f"{waits} cost {lost}; {blocked} ({grade})."


# --- what to do ------------------------------------------------------------------------------------------


def _again(recording: Recording) -> str:
    if recording.target.kind == "trace":
        if recording.failure == INTERRUPTED:
            return "Import it again for the whole; what was read until then is below."
        return "Export or copy the trace again; what could be read of it is below."
    if recording.failure == INTERRUPTED:
        return "Scan again for the whole; what was recorded until then is below."
    return "Mend what ended the run and scan again; what was recorded until then is below."


def _next(report: Report) -> str:
    first = headline_finding(report)
    if first is None:
        if report.unchecked and not report.findings:
            return 'See "Not checked" for what each rule lacks.'
        return "Nothing to do."
    action = first_action(report, first)
    what = action.title.strip().removesuffix(".") + "." if action else first.advice.strip()
    does = report.path and action is not None and action.fix is not None
    by = f"`diffprof fix --apply --select {action.fix}` does it." if does and action else ""
    return " ".join(filter(None, [what, by, f"`diffprof explain {first.rule}` says more."]))


def first_action(report: Report, finding: Finding) -> Action | None:
    """The action that a finding leads to."""
    return next((each for each in report.actions if report.findings[each.findings[0]] == finding), None)
