"""A comparison of two runs as text, markdown, JSON or workflow annotations."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterator

from diffprof.judge.comparing import Comparison, Direction, Figure, is_bad, shown
from diffprof.model import units
from diffprof.model.finding import Finding
from diffprof.model.plain import clean
from diffprof.model.report import as_json
from diffprof.views import words
from diffprof.views.page import Page

FORMS = ("text", "json", "markdown", "github")


def render_comparison(
    comparison: Comparison, form: str = "text", *, columns: int | None = None, colour: bool = False
) -> str:
    """One of FORMS, ending in a newline."""
    if form == "json":
        return as_json(comparison).decode()
    if form == "markdown":
        return _markdown(comparison)
    if form == "github":
        return _github(comparison)
    return _text(comparison, columns, colour)


def figure_rows(comparison: Comparison) -> tuple[tuple[str, ...], ...]:
    """(figure, before, after, what became of it) of every figure, as cells."""
    return tuple(
        (figure.name, shown(figure.before, figure.unit), shown(figure.after, figure.unit), _became(figure))
        for figure in comparison.figures
    )


class FindingGroup(enum.StrEnum):
    """Findings that changed alike, by their heading."""

    WORSE = "Got worse"
    BETTER = "Got better"
    NEW = "New"
    GONE = "Gone"


def groups(comparison: Comparison) -> Iterator[tuple[FindingGroup, tuple[str, ...]]]:
    """(heading, a line for each finding), empty groups left out."""
    for title, shifts in ((FindingGroup.WORSE, comparison.worse), (FindingGroup.BETTER, comparison.better)):
        if shifts:
            yield title, tuple(f"{line(shift.after)}: {shift.why}" for shift in shifts)
    for title, findings in ((FindingGroup.NEW, comparison.appeared), (FindingGroup.GONE, comparison.went)):
        if findings:
            counts = Counter(f"{line(f)}, {words.how_often(f)}" for f in findings)
            yield title, tuple(f"{n} x {each}" if n > 1 else each for each, n in counts.items())


def line(finding: Finding) -> str:
    """A finding by its rule and place."""
    at = f" at {units.place(finding.site)}" if finding.site else ""
    return f"{finding.rule} {finding.name}{at}"


def is_bad_group(title: FindingGroup, comparison: Comparison) -> bool:
    """Whether the findings under a heading make the run worse."""
    bad = any(is_bad(each, comparison.figures) for each in comparison.appeared)
    return title is FindingGroup.WORSE or (title is FindingGroup.NEW and bad)


def _became(figure: Figure) -> str:
    if figure.direction is Direction.UNKNOWN:
        return figure.note or "not comparable"
    ratio = figure.ratio
    how = "given for a faster call" if figure.traded else str(figure.direction)
    if figure.direction is Direction.SAME or ratio is None or not figure.after:
        return how
    became = f"{units.number(abs(ratio - 1) * 100)} % {'less' if ratio < 1 else 'more'}"
    return f"{became}, {how}" if figure.traded else f"{how}, {became}"


def _text(comparison: Comparison, columns: int | None, colour: bool) -> str:
    page = Page(columns, colour=colour)
    style = "red" if comparison.regressions else "bold"
    page.flow((style, comparison.headline), label="Verdict", label_style="bold")
    for label, side in (("Before", comparison.before), ("After", comparison.after)):
        page.flow(f"{side.run}: {side.target} on {side.device} ({side.grade})", label=label)
    for each in comparison.each:
        if each.pipeline:
            page.heading(each.pipeline)
        _section(page, each)
    return page.text()


def _section(page: Page, comparison: Comparison) -> None:
    page.blank()
    page.table(("figure", "before", "after", ""), figure_rows(comparison))
    for title, lines in groups(comparison):
        page.heading(title)
        for each in lines:
            page.whole(each, indent=2)
    if comparison.unchanged:
        page.blank()
        page.flow(("dim", f"{units.plural(comparison.unchanged, 'finding')} in both."))
    if comparison.not_comparable:
        page.heading("Not comparable")
        for note in comparison.not_comparable:
            page.flow(note, indent=2)


def _markdown(comparison: Comparison) -> str:
    from diffprof.views.markdown_text import prose, table

    parts = [
        f"### diffprof: {prose(comparison.headline)}\n",
        f"{prose(comparison.before.run)} → {prose(comparison.after.run)}\n",
    ]
    for one in comparison.each:
        parts += [f"### {prose(one.pipeline)}\n"] if one.pipeline else []
        parts.append(table(("figure", "before", "after", ""), figure_rows(one)))
        for title, lines in groups(one):
            parts.append(f"#### {title}\n")
            parts.append("".join(f"- {prose(each)}\n" for each in lines))
        if one.unchanged:
            parts.append(f"{units.plural(one.unchanged, 'finding')} in both.\n")
        if one.not_comparable:
            parts.append("".join(f"- {prose(note)}\n" for note in one.not_comparable))
    return "\n".join(parts)


def _github(comparison: Comparison) -> str:
    """The verdict as a notice, or as a warning with what got worse."""
    from diffprof.views.github import annotation

    level = "warning" if comparison.regressions else "notice"
    lines = [
        annotation(level, {"title": "diffprof compare"}, [comparison.headline, *comparison.not_comparable])
    ]
    new = [each for one in comparison.each for each in one.appeared if is_bad(each, one.figures)]
    worse = (shift.after for one in comparison.each for shift in one.worse)
    for finding in (*new, *worse):
        site = finding.site
        where: dict[str, object] = {"file": site.file, "line": site.line} if site and site.user_code else {}
        message = [f"{line(finding)}: {finding.message}", finding.advice]
        lines.append(annotation("warning", {**where, "title": clean(finding.rule)}, message))
    return "".join(f"{each}\n" for each in lines)
