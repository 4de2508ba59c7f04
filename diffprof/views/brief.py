"""A report on one screen: the answer, what to do for it, and what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from diffprof.judge.fitting import shortfall
from diffprof.judge.recipes import recipes
from diffprof.judge.rules import all_rules, find_rule
from diffprof.model import units
from diffprof.model.fix import Stage
from diffprof.model.plain import clean, cut, pad, width
from diffprof.model.recording import Recording
from diffprof.model.report import Report
from diffprof.model.summary import Action, Rest
from diffprof.views import words
from diffprof.views.actions import COLUMNS, cells_of
from diffprof.views.page import Page, pieces
from diffprof.views.tuning import tried
from diffprof.views.verdict import folded, foremost, named, verdict

LINES = 25
"""The most that is printed, on a screen of 80 columns."""
MOST_ACTIONS = 8
_LOOKS_AT = {"quantization": "quantization layer by layer"}
"""An analyzer's name, where it would claim too much: what INT8 saves in all is priced without it."""
_COMPILING = "Compiling takes seconds to minutes once in a process; no time above has it."
_LONGEST = 400
"""Characters of a sentence of the verdict; the rest is in the full report."""


def render_brief(report: Report, *, columns: int | None = None, colour: bool = False) -> str:
    """At most LINES lines on a screen of 80 columns."""
    page = Page(columns or 80, colour=colour)
    top = verdict(report)
    page.flow(("dim", words.subject(report.recording)))
    page.flow(("bold", cut(top.headline, _LONGEST)))
    page.flow(cut(top.why, _LONGEST))
    for told in _others(report):
        page.raw(("dim", cut(told, page.columns or 80)))
    lead = foremost(report)
    if report.outcomes is not None:
        page.flow(("green", tried(report.outcomes)))
    below = Page(columns or 80, colour=colour)
    for line in _below(report):
        below.whole(*line)
    once = _COMPILING if any(map(_compiles, lead.actions[:MOST_ACTIONS])) else ""
    room = LINES - len(page.lines) - len(below.lines) - 4 - bool(once)
    shown = _fitting(lead.actions, room)
    if shown:
        page.blank()
        _table(page, shown, room - sum(map(_lines, shown)))
        _rest(page, lead.rest, len(lead.actions) - len(shown))
        if once:
            page.flow(("dim", once))
    else:
        page.flow(top.next)
    page.blank()
    page.lines += below.lines
    return page.text()


def _others(report: Report) -> Iterator[str]:
    """A line for each of the pipelines that the verdict is not about."""
    for each in report.each if report.pipelines else ():
        if each is not foremost(report):
            told = folded(replace(each, pipelines=()))
            yield f"{named(report, each)}: {told.headline} {told.why}"


def _compiles(action: Action) -> bool:
    recipe = recipes().get(action.fix or "")
    return recipe is not None and recipe.fix.stage is Stage.COMPILE


def _lines(action: Action) -> int:
    """Its row, and one for its line of source."""
    return 2 if action.place else 1


def _fitting(actions: Sequence[Action], room: int) -> list[Action]:
    """As many as have a place in so many lines."""
    shown: list[Action] = []
    for action in actions[:MOST_ACTIONS]:
        room -= _lines(action)
        if room < 0:
            break
        shown.append(action)
    return shown


def _table(page: Page, actions: Sequence[Action], spare: int) -> None:
    """A row an action: what, what it saves, the call after it, what becomes of the picture, who does it; then
    the line of source, where there is one. A title that is too long goes on in a second line as long as there
    are `spare` lines, and is cut then."""
    heads = COLUMNS
    rows = [heads, *map(cells_of, actions)]
    widths = [max(width(row[i]) for row in rows[1:]) for i in range(len(heads))]
    widths = [max(each, width(head)) if each else 0 for each, head in zip(widths, heads, strict=True)]
    taken = sum(each + 2 for each in widths[1:] if each)
    widths[0] = min(widths[0], max((page.columns or 80) - taken, 20))
    for number, row in enumerate(rows):
        title, more = _split(row[0], widths[0]) if spare else (row[0], "")
        spare -= bool(more)
        cells = [
            pad(cut(value, widths[i]), widths[i], right=heads[i] in ("saves", "call then"))
            for i, value in enumerate((title, *row[1:]))
            if widths[i]
        ]
        page.raw(("" if number else "bold", cut("  ".join(cells), page.columns or 80)))
        if more:
            page.raw(more)
        if number and (place := clean(actions[number - 1].place)):
            page.raw(("dim", cut(place, (page.columns or 80) - 2)), indent=2)


def _split(title: str, cells: int) -> tuple[str, str]:
    """The title in two lines, the second cut; the first alone where it fits."""
    if width(title) <= cells:
        return title, ""
    first, *more = pieces(cut(title, 3 * cells), cells)
    return first, cut("  " + " ".join(more), cells)


def _rest(page: Page, rest: Rest, hidden: int) -> None:
    count = len(rest.findings) + hidden
    if not count:
        return
    parts = [f"{count} more"]
    if rest.saves_ms:
        parts.append(f"{units.duration(rest.saves_ms)} together")
    if rest.unknown:
        parts.append(f"{rest.unknown} not priced")
    if rest.hints:
        parts.append(units.plural(rest.hints, "hint"))
    page.flow(("dim", f"{', '.join(parts)}."))


def _below(report: Report) -> Iterator[tuple[str | tuple[str, str], ...]]:
    if report.allowed:
        yield (("dim", f"Allowed on purpose: {units.plural(len(report.allowed), 'finding')} (-v)."),)
    if lacking := _unchecked(report):
        yield (("dim", lacking),)
    if fit := _fit(foremost(report).recording):
        yield ("dim", "See how it fits, with code: "), ("cyan", fit)
    if not report.path:
        return  # a command without a run's name would be about the newest of the stored ones
    name = Path(report.path).name
    fixable = any(action.fix for each in report.each for action in each.actions)
    if fixable and report.recording.target.kind not in ("trace",):
        yield ("dim", "Try them on a copy, get the code: "), ("cyan", f"diffprof fix --apply {name}")
    yield ("dim", "See the evidence (-v prints it): "), ("cyan", f"diffprof view {name}")
    yield (("dim", f"Stored in {report.path}"),)


def _fit(recording: Recording) -> str:
    """The command that finds how a call fits which does not; empty where it does, or none is simulated."""
    target, device = recording.target, recording.device
    if (
        target.kind not in ("builtin", "checkpoint")
        or device.kind != "sim"
        or not shortfall(recording.memory)
    ):
        return ""
    return f"diffprof fit {target.spec} --device {device.spec.removeprefix('sim:')}"


def _unchecked(report: Report) -> str:
    """What was not looked at, in a line; empty where all was."""
    left_out = sorted(_analyzers_without_evidence(report))
    others = sum(1 for each in report.unchecked if find_rule(each.rule).analyzer not in left_out)
    others += len(report.recording.unseen)
    parts = []
    if left_out:
        names = units.listed([_LOOKS_AT.get(name, name.replace("-", " ")) for name in left_out])
        parts.append(f"{names} (scan with --analyzers all)" if report.recording.analyzers else names)
    if others:
        parts.append(f"{others} {'more ' if left_out else ''}{'thing' if others == 1 else 'things'} (-v)")
    return f"Not checked: {'; '.join(parts)}." if parts else ""


def _analyzers_without_evidence(report: Report) -> set[str]:
    """Those of which no rule could judge."""
    unchecked = Counter(find_rule(each.rule).analyzer for each in report.unchecked)
    rules = Counter(rule.analyzer for rule in all_rules())
    return {name for name, count in unchecked.items() if count == rules[name]}
