"""A report on one screen: the answer, what to do for it, and what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec.structs import replace

from diffprof.judge.recipes import recipes
from diffprof.judge.rules import all_rules, find_rule
from diffprof.model import units
from diffprof.model.fix import Stage
from diffprof.model.plain import clean, cut, pad, width
from diffprof.model.report import Report
from diffprof.model.summary import Action, Rest
from diffprof.views import words
from diffprof.views.actions import COLUMNS, cells_of, heading
from diffprof.views.page import Page, pieces
from diffprof.views.tuning import tried
from diffprof.views.verdict import fit_command, folded, foremost, named, verdict

Line = tuple[str, str]
"""Style and text."""

LINES = 25
"""The most that is printed, on a screen of 80 columns."""
MOST_ACTIONS = 8
_LOOKS_AT = {"quantization": "quantization by layer"}
"""An analyzer's name, where it would claim too much: what INT8 saves in all is priced without it."""
_COMPILING = "Compiling takes seconds to minutes once in a process; no time above has it."
_ONCE = "What is said to come once is spent in the first call of a process (measured)."
_HAD_IT_ROOM = "Times are those of a call that had the memory; as it is, it can't run."
_TITLE_LINES = 3
"""The most that a title takes; it is cut then."""
_LONGEST = 400
"""Characters of a sentence of the verdict; the rest is in the full report."""


def render_brief(report: Report, *, columns: int | None = None, colour: bool = False) -> str:
    """At most LINES lines on a screen of 80 columns."""
    page = Page(columns or 80, colour=colour)
    top = verdict(report)
    page.flow(("dim", words.subject(report.recording)))
    page.flow(("bold", cut(top.headline, _LONGEST)))
    page.flow(cut(top.why, _LONGEST))
    for told in _others(report, page.columns or 80):
        page.flow(("dim", told))
    lead = foremost(report)
    if report.outcomes is not None:
        page.flow(("green", tried(report.outcomes)))
    below = Page(columns or 80, colour=colour)
    for line in _below(report):
        below.whole(*line)
    notes = list(_notes(lead.actions[:MOST_ACTIONS]))
    room = LINES - len(page.lines) - len(below.lines) - 4 - len(notes)
    shown, lines = _fitting(page, lead.actions, room)
    if shown:
        page.blank()
        for line in lines:
            page.raw(line)
        _rest(page, lead.rest, [each for each in lead.actions if each not in shown])
        for note in notes:
            page.flow(("dim", note))
    else:
        page.flow(top.next)
    page.blank()
    page.lines += below.lines
    return page.text()


def _others(report: Report, screen: int) -> Iterator[str]:
    """Of each of the pipelines that the verdict is not about, its times; why, if that fits, or else what to
    do first."""
    for each in report.each if report.pipelines else ():
        if each is not foremost(report):
            told = folded(replace(each, pipelines=()))
            short = f"{named(report, each)}: {told.headline}"
            whole = f"{short} {told.why}"
            first = "".join(_in_short(action) for action in each.actions[:1] if action.saves_ms)
            yield whole if width(whole) <= screen or not told.headline else cut(short + first, _LONGEST)


def _in_short(action: Action) -> str:
    """An action in a sentence: what, what it saves and where."""
    what, saves, *_ = cells_of(action)
    where = f", {clean(action.place)}" if action.place else ""
    return f" {what.rstrip('.')}: {saves}{where}."


def _notes(actions: Sequence[Action]) -> Iterator[str]:
    """What has to be known of the figures of the table, a line each."""
    if any(each.makes_room for each in actions) and any(_timed(each) for each in actions):
        yield _HAD_IT_ROOM
    if any(each.saves_ms is None and each.once_ms is not None for each in actions):
        yield _ONCE
    elif any(map(_compiles, actions)):
        yield _COMPILING


def _timed(action: Action) -> bool:
    return action.saves_ms is not None and not action.makes_room


def _compiles(action: Action) -> bool:
    recipe = recipes().get(action.fix or "")
    return recipe is not None and recipe.fix.stage is Stage.COMPILE


def _fitting(page: Page, actions: Sequence[Action], room: int) -> tuple[list[Action], list[Line]]:
    """Of the first actions as many as fit into so many lines, and the lines: what is done by hand is named in
    short for it, the longest first; then those that save least are left out, never the first."""
    shown = list(actions[:MOST_ACTIONS])
    if not shown:
        return [], []
    while True:
        for most in range(_TITLE_LINES, -1, -1):
            lines = list(_table(page, shown, most))
            if len(lines) - 1 <= room:
                return shown, lines
        if len(shown) == 1:
            return shown, lines[: max(room, 2) + 1]
        shown.remove(min(shown[1:], key=lambda each: each.saves_ms or 0.0))


def _table(page: Page, actions: Sequence[Action], most: int) -> Iterator[Line]:
    """A row an action: what, what it saves, the call after it, what becomes of the picture, who does it; then
    what is left of a title that is too long, and the line of source, where there is one. most: what is done
    by hand is named by its rule where its advice takes more lines, or cut where there is no line."""
    screen = page.columns or 80
    rows = [(heading(actions), *COLUMNS[1:]), *map(cells_of, actions)]
    widths = _widths(rows, screen)
    named = [
        each if each.fix or not each.place or len(_lines(each, widths[0], screen)) <= most else _by_rule(each)
        for each in actions
    ]
    rows[1:] = map(cells_of, named)
    widths = _widths(rows, screen)
    for number, row in enumerate(rows):
        action = named[number - 1]
        lines = _TITLE_LINES if action.fix or action.place else max(most, 1)
        title, *below = _lines(action, widths[0], screen, lines) if number else [row[0]]
        cells = [
            pad(cut(value, widths[i]), widths[i], right=rows[0][i] in ("saves", "call then"))
            for i, value in enumerate((title, *row[1:]))
            if widths[i]
        ]
        yield "" if number else "bold", cut("  ".join(cells), screen)
        for line in below:
            yield "", f"  {line}"
        if number and (place := clean(action.place)):
            yield "dim", f"  {cut(place, screen - 2)}"


def _by_rule(action: Action) -> Action:
    return replace(action, title=find_rule(action.rule).name)


def _widths(rows: Sequence[tuple[str, ...]], screen: int) -> list[int]:
    """Cells of each column; 0 where it says nothing."""
    widths = [max((width(row[i]) for row in rows[1:]), default=0) for i in range(len(rows[0]))]
    widths = [max(each, width(head)) if each else 0 for each, head in zip(widths, rows[0], strict=True)]
    taken = sum(each + 2 for each in widths[1:] if each)
    widths[0] = min(widths[0], max(screen - taken, 20))
    return widths


def _lines(action: Action, first: int, screen: int, most: int = _TITLE_LINES) -> list[str]:
    """Its title: so many cells in the first line, the screen's in those below, `most` lines."""
    whole = cells_of(action)[0]
    if most == 1:
        return [cut(whole, first)]
    title, *more = pieces(cut(whole, _TITLE_LINES * screen), first)
    below = pieces(" ".join(more), screen - 2) if more else []
    if len(below) >= most:
        below = [*below[: most - 2], cut(" ".join(below[most - 2 :]), screen - 2)]
    return [title, *below]


def _rest(page: Page, rest: Rest, hidden: Sequence[Action]) -> None:
    count = len(rest.findings) + len(hidden)
    if not count:
        return
    parts = []
    if saved := (rest.saves_ms or 0.0) + sum(each.saves_ms or 0.0 for each in hidden):
        parts.append(f"{units.duration(saved)} together")
    if unknown := rest.unknown + sum(each.saves_ms is None for each in hidden):
        parts.append(f"{unknown} of unknown cost")
    if hand := sum(each.fix is None for each in hidden):
        parts.append(f"{hand} by hand")
    if rest.hints:
        parts.append(units.plural(rest.hints, "hint"))
    said = f": {', '.join(parts)}" if parts else ""
    page.flow(("dim", f"{units.plural(count, 'more finding')} (-v){said}."))


def _below(report: Report) -> Iterator[tuple[str | tuple[str, str], ...]]:
    if report.allowed:
        yield (("dim", f"Allowed on purpose: {units.plural(len(report.allowed), 'finding')} (-v)."),)
    if lacking := _unchecked(report):
        yield (("dim", lacking),)
    if fit := fit_command(foremost(report).recording):
        yield ("dim", "See how it fits, with code: "), ("cyan", fit)
    if not report.path:
        return  # a command without a run's name would be about the newest of the stored ones
    name = Path(report.path).name
    fixable = any(action.fix for each in report.each for action in each.actions)
    if fixable and report.recording.target.kind not in ("trace",):
        if report.outcomes and report.after:
            yield ("dim", "See what the fixes did: "), ("cyan", f"diffprof compare {name} {report.after}")
        else:
            yield ("dim", "Try them on a copy: "), ("cyan", f"diffprof fix --apply {name}")
    yield ("dim", "See the evidence (-v prints it): "), ("cyan", f"diffprof view {name}")
    yield (("dim", f"Stored in {report.path}"),)


def _unchecked(report: Report) -> str:
    """What was not looked at, in a line; empty where all was."""
    left_out = sorted(_analyzers_without_evidence(report))
    others = sum(1 for each in report.unchecked if find_rule(each.rule).analyzer not in left_out)
    others += len(report.recording.unseen)
    parts = []
    if left_out:
        names = ", ".join(_LOOKS_AT.get(name, name.replace("-", " ")) for name in left_out)
        parts.append(f"{names} (--analyzers all)" if report.recording.analyzers else names)
    if others:
        parts.append(f"{others} more (-v)" if left_out else f"{units.plural(others, 'thing')} (-v)")
    return f"Not checked: {'; '.join(parts)}." if parts else ""


def _analyzers_without_evidence(report: Report) -> set[str]:
    """Those of which no rule could judge."""
    unchecked = Counter(find_rule(each.rule).analyzer for each in report.unchecked)
    rules = Counter(rule.analyzer for rule in all_rules())
    return {name for name, count in unchecked.items() if count == rules[name]}
