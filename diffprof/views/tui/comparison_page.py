"""Two runs side by side, as a page."""

from __future__ import annotations

from pathlib import Path

from diffprof.judge.comparing import Comparison, Direction, Figure, compare
from diffprof.judge.judging import load_judged
from diffprof.model import units
from diffprof.model.errors import DiffprofError
from diffprof.model.plain import pad, width
from diffprof.views.comparison import FindingGroup, figure_rows, groups, is_bad_group
from diffprof.views.tui.styles import Writing

_BECAME = {Direction.BETTER: "good", Direction.WORSE: "bad"}


def comparison_of(before: Path, after: Path) -> Writing:
    """Read two runs and compare them; an error of one is said on the page."""
    page = Writing()
    try:
        one, other = (load_judged(folder) for folder in (before, after))
        comparison_page(page, compare(one, other))
    except DiffprofError as error:
        page.flow(("bad", error.what))
        page.flow(error.hint)
    return page


def comparison_page(page: Writing, found: Comparison) -> None:
    """Two runs: the verdict, the figures side by side, what appeared and went."""
    page.flow(("bad" if found.regressions else "strong", found.headline))
    for label, side in (("A, before", found.before), ("B, after", found.after)):
        page.fact(label, f"{side.run}: {side.target} on {side.device} ({side.grade})")
    for each in found.each:
        if each.pipeline:
            page.heading(each.pipeline)
        _section(page, each)


def _section(page: Writing, found: Comparison) -> None:
    page.blank()
    rows = [("figure", "before", "after", ""), *figure_rows(found)]
    widths = [max(width(row[n]) for row in rows) for n in range(3)]
    for number, row in enumerate(rows):
        style = "muted" if number == 0 else _style(found.figures[number - 1])
        cells = [pad(row[n], widths[n], right=n > 0) for n in range(3)]
        page.kept(f"{'  '.join(cells)}  ", (style, row[3]), indent=2)
    good = (FindingGroup.BETTER, FindingGroup.GONE)
    for title, lines in groups(found):
        page.heading(title)
        style = "good" if title in good else "bad" if is_bad_group(title, found) else ""
        for line in lines:
            page.flow((style, "• "), line, indent=2)
    if found.unchanged:
        page.blank()
        page.flow(("muted", f"{units.plural(found.unchanged, 'finding')} in both."))
    if found.not_comparable:
        page.heading("Not comparable")
        for note in found.not_comparable:
            page.flow(note, indent=2)


def _style(figure: Figure) -> str:
    return "" if figure.traded else _BECAME.get(figure.direction, "")
