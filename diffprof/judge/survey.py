"""The difference of two surveys, by line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from diffprof.model.survey import SurveyChange, SurveyLine, SurveyRow

Place = tuple[str, str, str, str]


def changes(before: Sequence[SurveyRow], after: Sequence[SurveyRow]) -> tuple[SurveyChange, ...]:
    """Lines that came, went or count differently, and pipelines that run in one of the two only.

    A line is the same where file and text are: its number moves with what stands above it.
    """
    old, new = ({row.target: row for row in rows} for rows in (before, after))
    found: list[SurveyChange] = []
    for target in dict.fromkeys((*old, *new)):
        found += _changed(target, old.get(target), new.get(target))
    return tuple(found)


def _changed(target: str, old: SurveyRow | None, new: SurveyRow | None) -> Iterator[SurveyChange]:
    ran = [row is not None and row.status == "ok" for row in (old, new)]
    if not all(ran):
        if any(ran):
            reason = next((row.reason for row in (old, new) if row is not None and row.reason), "")
            runs = {"before": float(ran[0]), "after": float(ran[1])}
            yield SurveyChange(target=target, what="runs", where=reason, code="", **runs)
        return
    assert old is not None
    assert new is not None
    was, here = _lines(old), _lines(new)
    for place in dict.fromkeys((*was, *here)):
        counts = _count(was.get(place)), _count(here.get(place))
        if counts[0] != counts[1]:
            line = (here.get(place) or was[place])[0]
            yield SurveyChange(
                target=target,
                what=line.what,
                where=f"{line.file}:{line.line}",
                code=line.code,
                before=counts[0],
                after=counts[1],
            )


def _count(lines: list[SurveyLine] | None) -> float | None:
    return None if lines is None else sum(line.count for line in lines)


def _lines(row: SurveyRow) -> dict[Place, list[SurveyLine]]:
    found: dict[Place, list[SurveyLine]] = defaultdict(list)
    for line in row.lines:
        found[(line.what, line.file, line.code, line.kind)].append(line)
    return dict(found)
