"""Two reports side by side: what got better, what got worse, what appeared and what went. Plain data in and
out; needs no torch."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import Grade, Recording, Site, steady_per_step
from diffprof.model.report import Report
from diffprof.model.units import plural

NOISE = 0.01
"""A time that differs by less than this share of the first is the same, whatever the passes' spread says."""

PREDICTED_MEMORY = 0.05
"""The same of a predicted peak of memory: how far predictions are from published peaks."""

TRADED_MEMORY = 0.10
"""Share of memory that a call which got faster may take more of, without counting as a regression."""


class Direction(enum.StrEnum):
    """What became of a figure or a finding."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    UNKNOWN = "unknown"
    """One side was not measured, or the two can't be held against each other."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two reports."""

    run: str
    target: str
    device: str
    created: str
    grade: Grade
    steps: int | None = None
    partial: bool = False


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One number on both sides; less is better. unit: ms, bytes, per step, or empty for a count."""

    name: str
    unit: str = ""
    before: float | None = None
    after: float | None = None
    grade: Grade | None = None
    """Of both sides; None where they differ or do not matter."""
    noise: float = 0.0
    """A smaller difference is none."""
    direction: Direction = Direction.UNKNOWN
    note: str = ""
    traded: bool = False
    """Worse, by so little that it is no regression in a call that got faster: what its changes cost."""

    @property
    def ratio(self) -> float | None:
        """After over before."""
        if self.before is None or self.after is None or not self.before:
            return None
        return self.after / self.before


class Shift(msgspec.Struct, frozen=True, kw_only=True):
    """A finding that is there on both sides, but not to the same extent."""

    before: Finding
    after: Finding
    direction: Direction
    why: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What changed from one report to the other. regressions: a sentence for each thing that got worse."""

    before: Side
    after: Side
    headline: str
    figures: tuple[Figure, ...] = ()
    appeared: tuple[Finding, ...] = ()
    went: tuple[Finding, ...] = ()
    better: tuple[Shift, ...] = ()
    worse: tuple[Shift, ...] = ()
    unchanged: int = 0
    not_comparable: tuple[str, ...] = ()
    """What could not be held against each other, with the reason."""
    regressions: tuple[str, ...] = ()
    """Of all pipelines."""
    pipeline: str = ""
    """Which of a script's pipelines it is about, where one of the reports is on several."""
    pipelines: tuple[Comparison, ...] = ()
    """Of the other pipelines that both reports are on: all else here but `headline`, `regressions` and what
    is not comparable is of the first."""

    @property
    def each(self) -> tuple[Comparison, ...]:
        """This, and those of the other pipelines."""
        return self, *self.pipelines


def compare(before: Report, after: Report) -> Comparison:
    """Hold one report against another; of a script's pipelines those of one name, or else in their order.

    Findings are the same where rule, file, function and source line are; the number of the line may have
    moved. A rule that only one of the two could check tells nothing about what appeared or went.
    """
    if not before.pipelines and not after.pipelines:
        return _compared(before, after)
    one, other = _by_name(before, after)
    common = [name for name in one if name in other]
    found = [msgspec.structs.replace(_compared(one[n], other[n]), pipeline=n) for n in common]
    lost = [
        f"{name} is in the {which} run alone."
        for which, side in (("first", one), ("second", other))
        for name in side
        if name not in common
    ]
    return msgspec.structs.replace(
        found[0],
        headline=" ".join(f"{each.pipeline}: {each.headline}" for each in found),
        pipelines=tuple(found[1:]),
        not_comparable=(*found[0].not_comparable, *lost),
        regressions=tuple(f"{each.pipeline}: {why}" for each in found for why in each.regressions),
    )


def _by_name(before: Report, after: Report) -> tuple[dict[str, Report], dict[str, Report]]:
    """The pipelines of both; those of the second by the names of the first where they share none."""
    one, other = (dict(zip(each.names, each.alone, strict=True)) for each in (before, after))
    if one.keys() & other.keys():
        return one, other
    names = [*one, *list(other)[len(one) :]]
    return one, dict(zip(names, other.values(), strict=False))


def _compared(before: Report, after: Report) -> Comparison:
    """Of two reports on one pipeline."""
    notes = list(_conditions(before.recording, after.recording))
    comparable, only_one = _judged_by_both(before, after)
    notes += only_one
    pairs, gone, new = match(
        [f for f in before.findings if f.rule in comparable],
        [f for f in after.findings if f.rule in comparable],
    )
    same_length = before.recording.target.steps == after.recording.target.steps
    shifts = [shift for one, other in pairs if (shift := _shift(one, other, same_length=same_length))]
    figures = _with_trades(tuple(_figures(before, after)))
    worse = tuple(s for s in shifts if s.direction is Direction.WORSE)
    found = Comparison(
        before=_side(before),
        after=_side(after),
        headline="",
        figures=figures,
        appeared=tuple(new),
        went=tuple(gone),
        better=tuple(s for s in shifts if s.direction is Direction.BETTER),
        worse=worse,
        unchanged=len(pairs) - len(shifts),
        not_comparable=tuple(notes),
        regressions=tuple(_regressions(figures, new, worse)),
    )
    return msgspec.structs.replace(found, headline=_headline(found))


# --- findings -------------------------------------------------------------------------------------------


def match(
    before: Sequence[Finding], after: Sequence[Finding]
) -> tuple[list[tuple[Finding, Finding]], list[Finding], list[Finding]]:
    """(findings on both sides, those that went, those that appeared): first by the source line's text, then
    by function, in the order of the lines."""
    pairs: list[tuple[Finding, Finding]] = []
    left, right = list(before), list(after)
    for key in (place_key, _function_key):
        waiting: dict[tuple, list[Finding]] = {}
        for finding in sorted(right, key=_line):
            waiting.setdefault(key(finding), []).append(finding)
        rest = []
        for finding in sorted(left, key=_line):
            same = waiting.get(key(finding))
            if same:
                pairs.append((finding, same.pop(0)))
            else:
                rest.append(finding)
        taken = {id(other) for _, other in pairs}
        left, right = rest, [f for f in right if id(f) not in taken]
    order = {id(f): n for n, f in enumerate((*before, *after))}
    return pairs, sorted(left, key=lambda f: order[id(f)]), sorted(right, key=lambda f: order[id(f)])


def place_key(finding: Finding) -> tuple[str, ...]:
    """What makes two findings of different runs the same: rule, kind, file, function and the line's text."""
    return (*_function_key(finding), _code(finding.site))


def _function_key(finding: Finding) -> tuple[str, ...]:
    site = finding.site
    where = (site.file, site.function) if site else ("", "")
    return (finding.rule, finding.kind, str(finding.in_loop), *where)


def _code(site: Site | None) -> str:
    if site is None:
        return ""
    return next((text.strip() for number, text in site.excerpt if number == site.line), "")


def _line(finding: Finding) -> int:
    return finding.site.line if finding.site else 0


def _shift(before: Finding, after: Finding, *, same_length: bool) -> Shift | None:
    """How often, per step and, where both calls have the same number of steps, per call. What happens nowhere
    (a setup, layers that could be quantized) is a chance that is larger or smaller, not a change for the
    worse."""
    if not happens(after):
        return None
    for name, comparable, one, other in (
        ("per step", True, before.per_step, after.per_step),
        ("per call", same_length, before.count, after.count),
    ):
        if one == other or not comparable:
            continue
        direction = Direction.BETTER if other < one else Direction.WORSE
        return Shift(before=before, after=after, direction=direction, why=f"{one:g} -> {other:g} {name}")
    return None


def happens(finding: Finding) -> bool:
    """Whether it is something that happens at a line, or that makes the CPU wait; else it is a chance to be
    faster, and a run that has more of them is not worse for it."""
    return finding.site is not None or bool(finding.evidence.syncs)


def _judged_by_both(before: Report, after: Report) -> tuple[set[str], list[str]]:
    from diffprof.judge.rules import all_rules

    missing = [{each.rule: each.why for each in report.unchecked} for report in (before, after)]
    known = {rule.code for rule in all_rules()}
    known |= {f.rule for f in (*before.findings, *after.findings)}
    notes = []
    for one, other, where in ((missing[0], missing[1], "first"), (missing[1], missing[0], "second")):
        alone = sorted(code for code in one if code not in other)
        if alone:
            notes.append(f"{', '.join(alone)}: not checked in the {where} run ({one[alone[0]]}).")
    return known - set(missing[0]) - set(missing[1]), notes


# --- figures --------------------------------------------------------------------------------------------


def _figures(before: Report, after: Report) -> Iterator[Figure]:
    one, other = before.recording, after.recording
    yield _time(one, other)
    for name, unit, read in _COUNTS:
        values = read(one), read(other)
        if values == (None, None):
            continue
        yield _counted(name, unit, *values)
    yield from _memory(one, other)


def _time(one: Recording, other: Recording) -> Figure:
    times = [
        r.timing.median * 1e3 if r.timing and r.timing.median is not None else None for r in (one, other)
    ]
    grades = {r.timing.grade for r in (one, other) if r.timing}
    figure = Figure(
        name="time of one call",
        unit="ms",
        before=times[0],
        after=times[1],
        grade=grades.pop() if len(grades) == 1 else None,
    )
    if times[0] is None or times[1] is None:
        return figure
    if why := _other_work(one, other) or _doubtful(one, other):
        return msgspec.structs.replace(figure, note=why)
    spread = max((r.timing.spread or 0.0) * 1e3 for r in (one, other) if r.timing)
    noise = max(spread, NOISE * times[0])
    return msgspec.structs.replace(figure, noise=noise, direction=_direction(times[0], times[1], noise))


def _doubtful(one: Recording, other: Recording) -> str:
    """Why the times can't be compared although they are of the same; empty where they can."""
    names = [r.timing.doubts for r in (one, other) if r.timing]
    doubts = list(dict.fromkeys(doubt for each in names for doubt in each))
    return f"not to be trusted: {', '.join(doubts)}" if doubts else ""


def _other_work(one: Recording, other: Recording) -> str:
    """Why the times are of different things; empty where they are of the same."""
    if one.device.spec != other.device.spec:
        return f"on other devices: {one.device.spec}, {other.device.spec}"
    grades = [r.timing.grade for r in (one, other) if r.timing]
    if len(set(grades)) > 1:
        return f"{grades[0]} against {grades[1]}"
    if one.target.steps != other.target.steps:
        return f"{one.target.steps} steps against {other.target.steps}"
    sizes = ("height", "width", "num_images_per_prompt", "guidance_scale", "batch_size")
    differ = [s for s in sizes if one.target.call.get(s) != other.target.call.get(s)]
    if differ:
        return f"another {differ[0]}: {one.target.call.get(differ[0])}, {other.target.call.get(differ[0])}"
    return ""


def _in_loop(recording: Recording) -> float | None:
    if recording.syncs is None:
        return None
    return steady_per_step(row for row in recording.syncs if row.in_loop)


def _outside(recording: Recording) -> float | None:
    if recording.syncs is None:
        return None
    return float(sum(row.count for row in recording.syncs if not row.in_loop))


def _sites_in_loop(recording: Recording) -> float | None:
    if recording.syncs is None:
        return None
    return float(len({(row.site.file, row.site.line) for row in recording.syncs if row.in_loop}))


def _breaks(recording: Recording) -> float | None:
    return None if recording.graph_breaks is None else float(len(recording.graph_breaks))


def _recompiles(recording: Recording) -> float | None:
    return None if recording.recompiles is None else float(sum(row.count for row in recording.recompiles))


IN_LOOP, OUTSIDE = "blocking operations in the loop", "blocking operations outside the loop"
_COUNTS: tuple[tuple[str, str, Callable[[Recording], float | None]], ...] = (
    (IN_LOOP, "per step", _in_loop),
    ("lines in the loop that block", "", _sites_in_loop),
    (OUTSIDE, "", _outside),
    ("graph breaks", "", _breaks),
    ("recompiles", "", _recompiles),
)


def _counted(name: str, unit: str, before: float | None, after: float | None) -> Figure:
    figure = Figure(name=name, unit=unit, before=before, after=after)
    if before is None or after is None:
        return figure
    return msgspec.structs.replace(figure, direction=_direction(before, after, 0.0))


def _memory(one: Recording, other: Recording) -> Iterator[Figure]:
    peaks = [r.memory.peak_bytes if r.memory else None for r in (one, other)]
    if peaks == [None, None]:
        return
    grades = {r.memory.grade for r in (one, other) if r.memory}
    figure = Figure(
        name="memory, peak",
        unit="bytes",
        before=peaks[0],
        after=peaks[1],
        grade=grades.pop() if len(grades) == 1 else None,
    )
    if peaks[0] is None or peaks[1] is None:
        yield figure
    elif why := _other_work(one, other):
        yield msgspec.structs.replace(figure, note=why)
    else:
        noise = (PREDICTED_MEMORY if figure.grade is Grade.SIMULATED else NOISE) * peaks[0]
        yield msgspec.structs.replace(
            figure, noise=noise, direction=_direction(float(peaks[0]), float(peaks[1]), noise)
        )


def _direction(before: float, after: float, noise: float) -> Direction:
    if abs(after - before) <= noise:
        return Direction.SAME
    return Direction.BETTER if after < before else Direction.WORSE


# --- the verdict ----------------------------------------------------------------------------------------


def _conditions(one: Recording, other: Recording) -> Iterator[str]:
    """What differs between the runs that is no result."""
    if one.target.spec != other.target.spec:
        yield f"The targets differ: {one.target.spec}, {other.target.spec}."
    if one.device.spec != other.device.spec:
        yield f"The devices differ: {one.device.spec}, {other.device.spec}."
    if one.target.steps != other.target.steps:
        yield f"The numbers of steps differ: {one.target.steps}, {other.target.steps}."
    for recording, where in ((one, "first"), (other, "second")):
        if recording.partial:
            yield f"The {where} run is partial: {recording.failure or 'it ended early'}"
    versions = one.environment.packages, other.environment.packages
    changed = [
        f"{name} {versions[0].get(name, 'absent')} -> {versions[1].get(name, 'absent')}"
        for name in sorted({*versions[0], *versions[1]})
        if versions[0].get(name) != versions[1].get(name)
    ]
    if changed:
        yield f"Other versions: {', '.join(changed)}."


def _with_trades(figures: tuple[Figure, ...]) -> tuple[Figure, ...]:
    """In a call that got faster, some memory may be given for time, and waits before or after the loop for as
    many in each of its steps: a table that is read once is not read in every step."""
    if not any(each.unit == "ms" and each.direction is Direction.BETTER for each in figures):
        return figures
    less = sum(_more(each) for each in figures if each.name == IN_LOOP)

    def traded(figure: Figure) -> bool:
        if figure.direction is not Direction.WORSE:
            return False
        if figure.unit == "bytes":
            return (figure.ratio or 0) <= 1 + TRADED_MEMORY
        return figure.name == OUTSIDE and _more(figure) + less <= 0

    return tuple(msgspec.structs.replace(each, traded=traded(each)) for each in figures)


def _more(figure: Figure) -> float:
    return (figure.after or 0.0) - (figure.before or 0.0)


def is_bad(finding: Finding, figures: Sequence[Figure]) -> bool:
    """Whether a new finding makes a run worse: not one that only informs, or never happens, or is a wait that
    was given for others."""
    given = any(each.name == OUTSIDE and each.traded for each in figures)
    if given and finding.evidence.syncs and not finding.in_loop:
        return False
    return finding.severity is not Severity.INFO and happens(finding)


def _regressions(
    figures: Sequence[Figure], appeared: Iterable[Finding], worse: Iterable[Shift]
) -> Iterator[str]:
    from diffprof.model.units import place

    for figure in figures:
        if figure.direction is Direction.WORSE and not figure.traded:
            yield f"{figure.name}: {shown(figure.before, figure.unit)} -> {shown(figure.after, figure.unit)}"
    for finding in appeared:
        if is_bad(finding, figures):
            yield f"{finding.rule} {finding.name} is new: {place(finding.site)}"
    for shift in worse:
        yield f"{shift.after.rule} {shift.after.name} ({place(shift.after.site)}): {shift.why}"


def _headline(found: Comparison) -> str:
    time = found.figures[0]
    words = []
    if time.direction in (Direction.BETTER, Direction.WORSE) and time.before and time.after:
        grade = f" ({time.grade})" if time.grade else ""
        if time.direction is Direction.BETTER:
            words.append(f"{time.before / time.after:.2f}x as fast{grade}")
        else:
            words.append(f"{time.after / time.before:.2f}x as long{grade}")
    elif time.direction is Direction.SAME:
        words.append(f"same time{f' ({time.grade})' if time.grade else ''}")
    loop = next((f for f in found.figures if f.name == IN_LOOP), None)
    if loop is not None and loop.direction in (Direction.BETTER, Direction.WORSE):
        words.append(f"blocking operations per step {loop.before:g} -> {loop.after:g}")
    if found.went:
        words.append(f"{plural(len(found.went), 'finding')} gone")
    if found.appeared:
        words.append(plural(len(found.appeared), "new finding"))
    moved = len(found.better) + len(found.worse)
    if moved:
        words.append(f"{plural(moved, 'finding')} changed")
    if found.regressions:
        lead = "Mixed" if found.went or found.better or _any_better(found) else "Worse"
    elif time.direction is Direction.BETTER:
        lead = "Faster"
    elif found.went or found.better or _any_better(found):
        lead = "Better"
    elif any(f.direction is not Direction.UNKNOWN for f in found.figures):
        lead = "No change"
    else:
        return "Nothing that both runs measured can be compared."
    return f"{lead}: {', '.join(words)}." if words else f"{lead}."


def _any_better(found: Comparison) -> bool:
    return any(figure.direction is Direction.BETTER for figure in found.figures)


def shown(value: float | None, unit: str) -> str:
    """A figure with its unit, in words."""
    from diffprof.model.units import NOT_MEASURED, milliseconds, number, size

    if value is None:
        return NOT_MEASURED
    if unit == "ms":
        return milliseconds(value)
    if unit == "bytes":
        return size(value)
    return f"{number(value)} {unit}".strip()


def _side(report: Report) -> Side:
    from pathlib import Path

    recording = report.recording
    return Side(
        run=Path(report.path).name if report.path else recording.target.spec,
        target=recording.target.spec,
        device=recording.device.spec,
        created=recording.created,
        grade=recording.device.grade,
        steps=recording.target.steps,
        partial=recording.partial,
    )
