"""What a report comes to: the actions worth taking, in order, and the call before and after them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from msgspec.structs import replace

from diffprof.judge.figures import call_ms, card_call_ms
from diffprof.judge.fitting import halving_makes_room, shortfall
from diffprof.judge.plan import (
    Choice,
    at_card_steps_ms,
    costed_change,
    grade_of,
    predicted_ms,
    priced_steps,
    selected,
)
from diffprof.judge.recipes import recipes
from diffprof.judge.setup_costs import after_their_base, uncovered_ms
from diffprof.judge.short_steps import short_steps
from diffprof.model.finding import Finding, Severity
from diffprof.model.fix import PlanStep, Safety
from diffprof.model.recording import Change, MemoryUse, Site
from diffprof.model.report import Report
from diffprof.model.summary import Action, Answer, Rest
from diffprof.model.units import plural

WORTH = 0.001
"""Share of the call that an action has to save to be named by itself."""

NEARLY_ALL = 0.95
"""Share of what several waits cost together from which one of them is named instead of them."""

WAITS = "Take these waits out of the denoising loop: each alone hides behind the next"

_MOST_LINES = 3
"""Lines of one file that a row names."""

DOES_NOT_FIT = "SET008"
"""Rule whose finding is the answer where there is one: a call that can't run saves nothing."""

COLD_CALL = "KRN013"
"""Rule whose finding is the answer where there is one: what was recorded is no usual call."""


def summarized(report: Report, about: Sequence[str] = ()) -> Report:
    """The report with its verdict, what to do and what it buys, and its findings in that order: first what
    actions stand for.

    about: codes of rules that were asked for, or the beginning of codes; empty: all. Actions that keep the
    picture come first, each group by what an action saves; that is what it adds to those before it.
    """
    answer, actions, rest = _summary(report, about)
    first = [n for action in actions for n in action.findings]
    order = list(dict.fromkeys([*first, *range(len(report.findings))]))
    place = {old: new for new, old in enumerate(order)}
    ordered = replace(report, findings=tuple(report.findings[n] for n in order))
    actions = [replace(each, findings=tuple(place[n] for n in each.findings)) for each in actions]
    return replace(
        ordered,
        verdict=replace(answer, finding=_told_of(ordered, actions, about)),
        actions=tuple(actions),
        rest=replace(rest, findings=tuple(sorted(place[n] for n in rest.findings))),
        pipelines=tuple(summarized(each, about) for each in report.pipelines),
    )


def _told_of(report: Report, actions: Sequence[Action], about: Sequence[str]) -> int | None:
    """The finding that the verdict is about."""
    if actions:
        return actions[0].findings[0]
    if not about and call_ms(report.recording) is not None:
        return None
    wanted = (n for n, f in enumerate(report.findings) if not about or f.rule.startswith(tuple(about)))
    return next(wanted, None)


def _summary(report: Report, about: Sequence[str]) -> tuple[Answer, list[Action], Rest]:
    """By the report's own order of findings."""
    wanted = [n for n, f in enumerate(report.findings) if not about or f.rule.startswith(tuple(about))]
    now = call_ms(report.recording)
    priced = priced_steps(report)
    plans = [selected(priced, Choice(lossy=allowed)) for allowed in (False, True)]
    safe, lossy = ([step for step in plan if step.selected] for plan in plans)
    known = {step.fix for step in safe}
    ladder = _Ladder(report, now)
    told = _told(report, *plans)
    actions = ladder.climb([*safe, *_by_hand(report, told)], wanted)
    if added := [step for step in lossy if step.fix not in known]:
        ladder.drop(known - {step.fix for step in lossy})
        actions += ladder.climb(added, wanted)
    below = WORTH * (now or 0.0)
    needed = _needed(report, actions, below)
    named = [each for each in actions if about or each in needed or _worth_it(report, each, below)]
    short = shortfall(report.recording.memory)
    named.sort(key=lambda action: action.rule != COLD_CALL)
    if short is not None:
        # Those that make room come first; no call runs after one of the others alone.
        named = [replace(each, after_ms=None, makes_room=_makes_room(each, report)) for each in named]
        named.sort(key=lambda action: not action.makes_room)
    told -= {n for action in actions if action not in named for n in action.findings}
    told |= {n for action in named for n in action.findings}
    grade = report.recording.timeline.grade if report.recording.timeline else None
    timing = report.recording.timing
    kept = _after(now, [action for action in named if not action.changes_picture])
    changed = _after(None, [action for action in named if action.changes_picture])
    answer = Answer(
        about=tuple(about),
        call_ms=now,
        card_ms=card_call_ms(report.recording),
        kept_ms=kept,
        card_kept_ms=_at_card(report, safe, named, kept),
        lossy_ms=changed,
        card_lossy_ms=_at_card(report, lossy, named, changed),
        short_steps=short_steps(report.recording.timeline, report.recording.syncs, now),
        margin=timing.margin if timing else None,
        grade=grade or (timing.grade if timing else None),
        fits=_fits(report.recording.memory),
        needs_bytes=short.needs_bytes if short else None,
        lacks_bytes=short.lacks_bytes if short else None,
        phase=short.phase or None if short else None,
        waits_in_loop=_waits_in_loop(report),
    )
    return answer, named, _rest(report, [n for n in wanted if n not in told], actions, below)


def _at_card(
    report: Report, steps: Sequence[PlanStep], named: Sequence[Action], ms: float | None
) -> float | None:
    """A call with those of the steps that are named, and what is done by hand, at the model card's steps.
    ms: as it was recorded."""
    fixes = {step.fix for step in steps}
    changes, once_ms = set(), 0.0
    for action in named:
        if not action.saves_ms or not (action.fix is None or action.fix in fixes):
            continue
        own = [report.findings[n] for n in action.findings]
        change = costed_change(action.fix, report.recording) if action.fix else own[0].evidence.change
        if change is not None:
            changes.add(change)
        elif all(finding.phase is not None and not finding.in_loop for finding in own):
            once_ms += action.saves_ms
    return None if ms is None else at_card_steps_ms(report.recording, changes, ms, once_ms=once_ms)


def _after(before: float | None, actions: Sequence[Action]) -> float | None:
    """The call after these actions: what the table's last row says."""
    known = [action.after_ms for action in actions if action.saves_ms and action.after_ms is not None]
    return min(known, default=before)


def _by_hand(report: Report, told: set[int]) -> Iterator[PlanStep]:
    """A step for the findings that no fix resolves, so that they are priced with the others: one for those
    that ask for the same, and one for all waits of the loop where compiling uncovers them, as each of these
    hides behind the next. One that is cheap by its severity and has no price is not worth a step."""
    alike: dict[tuple[str, str, bool], list[int]] = {}
    together = uncovered_ms(report.recording) is not None
    for n, finding in enumerate(report.findings):
        if n in told or finding.severity is Severity.INFO:
            continue
        known = finding.saves_ms is not None
        if not known and finding.severity is Severity.LOW and not finding.in_loop:
            continue
        if together and known and finding.in_loop and finding.site and finding.evidence.syncs:
            alike.setdefault(("", WAITS, known), []).append(n)
        else:
            alike.setdefault((finding.rule, finding.advice or finding.message, known), []).append(n)
    for (_, title, _), indexes in alike.items():
        own = [report.findings[n] for n in indexes]
        step = PlanStep(
            fix=f"{own[0].rule}:{indexes[0]}",
            title=title if len({each.advice for each in own}) > 1 else own[0].advice or own[0].message,
            safety=Safety.ADVICE,
            stage=0,
            rules=tuple(dict.fromkeys(each.rule for each in own)),
            findings=tuple(indexes),
            grade=own[0].grade if len({each.grade for each in own}) == 1 else grade_of(own),
        )
        yield replace(step, saves_ms=_alone_ms(report, step, own))


def _alone_ms(report: Report, step: PlanStep, own: Sequence[Finding]) -> float | None:
    """What a step saves that no fix makes. Idle time has its sum; other savings overlap."""
    known = [finding.saves_ms for finding in own if finding.saves_ms is not None]
    if len(known) <= 1 or _claims_idle_time(own):
        return sum(known) if known else None
    now = call_ms(report.recording)
    after = predicted_ms(report, [step], [step.fix], before=now)
    return sum(known) if after is None or now is None else now - after


def _claims_idle_time(findings: Sequence[Finding]) -> bool:
    return all(each.evidence.events and not each.evidence.syncs for each in findings)


def _told(report: Report, *plans: Sequence[PlanStep]) -> set[int]:
    """Findings that fixes resolve, or would in the place of one that is taken, and those that rest on nothing
    but waits which these remove."""
    resolved = {
        n for steps in plans for step in steps if step.selected or step.gives_way_to for n in step.findings
    }
    waits = {wait for n in resolved for wait in report.findings[n].evidence.syncs}
    again = {
        n
        for n, finding in enumerate(report.findings)
        if finding.evidence.syncs and waits.issuperset(finding.evidence.syncs)
    }
    return resolved | again


class _Ladder:
    """Steps taken one after the other; `after` is the call with all that were taken."""

    def __init__(self, report: Report, now: float | None) -> None:
        self.report = report
        self.now = now
        self.taken: list[PlanStep] = []
        self.after = now
        self.unclaimed = 0.0
        """Milliseconds that the timeline gives steps beyond what their findings claim."""

    def drop(self, fixes: set[str]) -> None:
        self.taken = [step for step in self.taken if step.fix not in fixes]

    def climb(self, steps: Sequence[PlanStep], wanted: Sequence[int]) -> list[Action]:
        """What each adds to those before it, by what they save alone; what saves more once another is made,
        as a wait does that compiling leaves without work to hide behind, moves up behind that one."""
        start = (list(self.taken), self.after, self.unclaimed)
        made = [n for step in steps if step.safety is not Safety.ADVICE for n in step.findings]
        fixed = {wait for n in made for wait in self.report.findings[n].evidence.syncs}

        def place(step: PlanStep) -> tuple[bool, float, int]:
            return self._repeats(step, fixed), -(step.saves_ms or 0.0), min(step.findings)

        order = after_their_base(sorted(steps, key=place), _change_of)
        found = list(self._climb(order, wanted))
        again = _by_what_they_add(found, lambda step: _waits_in_loop_of(self.report, step.findings))
        if again != [step for step, _ in found]:
            self.taken, self.after, self.unclaimed = start
            found = list(self._climb(again, wanted))
        return [action for _, action in found]

    def _repeats(self, step: PlanStep, fixed: set[int]) -> bool:
        """Whether it is about several waits, some of which a fix removes, or their one place in other words,
        of which one finding accounts for nearly all: that one names the line, and goes first. fixed: the
        waits that fixes remove."""
        findings = self.report.findings
        whole = findings[step.findings[0]]
        if step.safety is not Safety.ADVICE or whole.site is not None or not whole.evidence.syncs:
            return False
        nearly = NEARLY_ALL * (whole.saves_ms or 0.0)
        return not fixed.isdisjoint(whole.evidence.syncs) or any(
            each.site is not None
            and (each.saves_ms or 0.0) >= nearly
            and set(each.evidence.syncs) <= set(whole.evidence.syncs)
            for each in findings
        )

    def _climb(self, steps: Sequence[PlanStep], wanted: Sequence[int]) -> Iterator[tuple[PlanStep, Action]]:
        for step in steps:
            findings = [n for n in step.findings if n in wanted]
            if not findings:
                continue
            self.taken.append(step)
            before = self.after
            if step.saves_ms is not None:
                self._take(step, step.saves_ms)
            yield step, self._action(step, findings, before)

    def _take(self, step: PlanStep, claimed: float) -> None:
        """A finding about idle time claims no more than the idle time of its cause, whatever the timeline
        gives without its events: the step does not either."""
        before, fixes = self.after, [each.fix for each in self.taken]
        after = predicted_ms(self.report, self.taken, fixes, before=self.now)
        own = [self.report.findings[n] for n in step.findings]
        idle = step.safety is Safety.ADVICE and _claims_idle_time(own)
        if after is not None and before is not None and idle:
            self.unclaimed += max(0.0, before - claimed - after - self.unclaimed)
        self.after = None if after is None else after + self.unclaimed

    def _action(self, step: PlanStep, findings: Sequence[int], before: float | None) -> Action:
        own = sorted(findings, key=lambda n: -(self.report.findings[n].saves_ms or 0.0))
        first = self.report.findings[own[0]]
        by_hand = step.safety is Safety.ADVICE
        saves = None
        if step.saves_ms is not None and before is not None and self.after is not None:
            saves = before - self.after
        return Action(
            findings=tuple(own),
            rule=first.rule,
            title=step.title,
            place=_places(site for n in (own if by_hand else own[:1]) for site in self._sites(n)),
            fix=None if by_hand else step.fix,
            short="" if by_hand else _short(step.fix),
            patch=any(
                f.site is not None and f.site.user_code for f in (self.report.findings[n] for n in own)
            ),
            safety=None if by_hand else step.safety,
            saves_ms=saves,
            alone_ms=step.saves_ms,
            after_ms=self.after,
            grade=step.grade,
            once_ms=_sum_of(self.report.findings[n].once_ms for n in (own if by_hand else own[:1])),
            once_compiled=step.once_compiled,
        )

    def _sites(self, number: int) -> Iterable[Site | None]:
        """Where a finding is; of one about several waits, where these are, the most frequent first."""
        finding, waits = self.report.findings[number], self.report.recording.syncs or ()
        if finding.site is not None:
            return [finding.site]
        rows = [waits[n] for n in finding.evidence.syncs if n < len(waits)]
        return [row.site for row in sorted(rows, key=lambda row: -row.count)]


def _places(sites: Iterable[Site | None]) -> str:
    """`file:line`, of several lines of a file `file:line, line`; empty: there is none."""
    lines: dict[str, set[int]] = {}
    for site in sites:
        if site is not None and site.line:
            lines.setdefault(site.file, set()).add(site.line)
    if not lines:
        return ""
    file, own = next(iter(lines.items()))
    shown = sorted(own)[:_MOST_LINES]
    more = sum(map(len, lines.values())) - len(shown)
    rest = f" and {plural(more, 'more place')}" if more else ""
    return f"{file}:{', '.join(map(str, shown))}{rest}"


def _sum_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _short(key: str) -> str:
    recipe = recipes().get(key)
    return key if recipe is None else recipe.fix.short or key


def _change_of(step: PlanStep) -> Change | None:
    known = recipes().get(step.fix)
    return None if known is None else known.change


def _by_what_they_add(
    found: Sequence[tuple[PlanStep, Action]], waits: Callable[[PlanStep], bool]
) -> list[PlanStep]:
    """The steps by what their actions save. Changes of the setup keep their order, in which they were costed;
    what saves more than alone stays behind the first of them, and behind the waits of the loop without which
    it would not: of those that hide each other the last saves what all of them cost. waits: whether a step
    is about such."""
    place = {id(pair): n for n, pair in enumerate(found)}

    def adds(pair: tuple[PlanStep, Action]) -> tuple[float, int]:
        return pair[1].saves_ms or 0.0, -place[id(pair)]

    changes = [pair for pair in found if _change_of(pair[0]) is not None]
    others = sorted((pair for pair in found if _change_of(pair[0]) is None), key=adds, reverse=True)
    order: list[PlanStep] = []
    for pair in changes:
        for each in list(others):
            uncovered = adds(each)[0] > (each[0].saves_ms or 0.0) * (1 + WORTH)
            if each in others and adds(each) > adds(pair) and (order or not uncovered):
                before = [o for o in others if uncovered and waits(o[0]) and place[id(o)] < place[id(each)]]
                for moved in (*sorted(before, key=lambda other: place[id(other)]), each):
                    others.remove(moved)
                    order.append(moved[0])
        order.append(pair[0])
    return [*order, *(step for step, _ in others)]


def _waits_in_loop_of(report: Report, findings: Iterable[int]) -> bool:
    """Whether one of these is about waits of the loop."""
    return any(report.findings[n].in_loop and report.findings[n].evidence.syncs for n in findings)


def _needed(report: Report, actions: Sequence[Action], below: float) -> list[Action]:
    """Those that save little by themselves, and without which a later one would too: waits of the loop that
    hide each other."""
    waits = [action for action in actions if _waits_in_loop_of(report, action.findings)]
    uncovered = [
        n
        for n, action in enumerate(waits)
        if (action.saves_ms or 0.0) > (action.alone_ms or 0.0) + max(below, WORTH * (action.alone_ms or 0.0))
    ]
    return waits[: uncovered[-1]] if uncovered else []


def _worth_it(report: Report, action: Action, below: float) -> bool:
    """Whether it gets a row of its own. What nobody has priced does, unless it is a hint for another picture;
    a saving that is known and small, or that another action has taken already, does not."""
    if action.saves_ms is None:
        hint = report.findings[action.findings[0]].severity is Severity.INFO
        return action.alone_ms is None and not (hint and action.changes_picture)
    return action.saves_ms > below


def _rest(report: Report, left: Sequence[int], actions: Sequence[Action], below: float) -> Rest:
    """What is left over: the small, the unpriced, and hints, whose saving is not that of a defect."""
    added = {n: action.saves_ms for action in actions for n in action.findings[:1]}
    for action in actions:  # what its other findings save is in the action's figure
        for n in action.findings[1:]:
            added.setdefault(n, None if action.saves_ms is None else 0.0)
    small = [n for n in left if report.findings[n].severity is not Severity.INFO]
    saved = [added.get(n, report.findings[n].saves_ms) for n in small]
    known = [each for each in saved if each is not None]
    return Rest(
        findings=tuple(left),
        saves_ms=max(sum(known), 0.0) if known else None,
        unknown=len(saved) - len(known),
        hints=len(left) - len(small),
        below_ms=below,
    )


def _fits(memory: MemoryUse | None) -> bool | None:
    known = memory is not None and memory.capacity_bytes and memory.peak_bytes
    return shortfall(memory) is None if known else None


def _makes_room(action: Action, report: Report) -> bool:
    """Whether it makes a call fit that does not."""
    recipe = recipes().get(action.fix or "")
    setup, short = report.recording.setup, shortfall(report.recording.memory)
    halves = recipe is not None and recipe.change is Change.HALF
    if halves and setup is not None and short is not None and not halving_makes_room(setup, short):
        return False
    return halves or any(report.findings[n].rule == DOES_NOT_FIT for n in action.findings)


def _waits_in_loop(report: Report) -> int | None:
    rows = report.recording.syncs
    return None if rows is None else sum(row.count for row in rows if row.in_loop)
