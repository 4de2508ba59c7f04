"""Which findings are allowed on purpose, and by what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diffprof.model.finding import Finding
from diffprof.model.recording import Allowance, Site

BLOCK = "block"
"""`Allowance.by` of a with statement: it covers what is called inside of it as well."""


def allowance_of(finding: Finding, allowances: Iterable[Allowance]) -> Allowance | None:
    """The first allowance that covers a finding."""
    return next((each for each in allowances if covers(each, finding)), None)


def covers(allowance: Allowance, finding: Finding) -> bool:
    """Whether a finding is of a rule and at a place that is allowed. Without a reason nothing is."""
    if not allowance.reason or not any(names(word, finding.rule, finding.name) for word in allowance.rules):
        return False
    places = list(_places(finding.site)) if allowance.by == BLOCK else list(_places(finding.site))[:1]
    return any(_within(allowance, *place) for place in places)


def names(word: str, code: str, name: str) -> bool:
    """Whether a word, a code, its beginning or a name, stands for a rule."""
    return word.lower() == name or (bool(word) and code.lower().startswith(word.lower()))


def _places(site: Site | None) -> Iterator[tuple[str, int, str]]:
    """(file, line, function), innermost first; of what has no place, an empty one."""
    if site is None:
        yield "", 0, ""
        return
    yield site.file, site.line, site.function
    for frame in site.chain:
        yield frame.file, frame.line, frame.function


def _within(allowance: Allowance, file: str, line: int, function: str) -> bool:
    return (
        _ends(file, allowance.file, "/")
        and _ends(function, allowance.function, ".")
        and (allowance.first is None or allowance.first <= line)
        and (allowance.last is None or line <= allowance.last)
    )


def _ends(whole: str, end: str | None, separator: str) -> bool:
    return end is None or whole == end or whole.endswith(separator + end)
