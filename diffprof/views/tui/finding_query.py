"""Which findings are shown: filters and text search over a report's findings. Plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from diffprof.judge.rules import all_rules
from diffprof.model.finding import Finding
from diffprof.model.units import place

LOOP = ("in loop", "outside")
FILTERS = ("analyzer", "phase", "grade", "loop")


@dataclass(frozen=True)
class Query:
    """What a finding must have; an empty text asks for nothing."""

    text: str = ""
    analyzer: str = ""
    phase: str = ""
    grade: str = ""
    loop: str = ""

    @property
    def active(self) -> bool:
        return self != Query()


class FindingIndex:
    """Findings that are asked the same questions again and again."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = findings
        self._analyzers = {rule.code: rule.analyzer.replace("-", " ") for rule in all_rules()}
        self._values: dict[str, list[str]] = {}
        self._texts: list[str] | None = None

    def values(self, name: str) -> list[str]:
        """Of a filter: the value of each finding, empty where it has none."""
        if name not in self._values:
            self._values[name] = list(map(self._read(name), self.findings))
        return self._values[name]

    def _read(self, name: str) -> Callable[[Finding], str]:
        if name == "loop":
            return lambda finding: LOOP[0] if finding.in_loop else LOOP[1]
        if name == "analyzer":
            known = self._analyzers
            # The rule's prefix for a rule that this version does not have.
            return lambda finding: known.get(finding.rule) or finding.rule.rstrip("0123456789")
        if name == "phase":
            return lambda finding: finding.phase or ""
        return lambda finding: str(finding.grade)

    def choices(self, name: str) -> tuple[str, ...]:
        """The values that a filter can have here, in the order in which they come."""
        return tuple(filter(None, dict.fromkeys(self.values(name))))

    def next_choice(self, query: Query, name: str) -> Query:
        """The query with the filter's next value; after the last none."""
        ways = ("", *self.choices(name))
        now = getattr(query, name)
        place = ways.index(now) if now in ways else 0
        return replace(query, **{name: ways[(place + 1) % len(ways)]})

    def matching(self, query: Query) -> Sequence[Finding]:
        """The findings that have all that is asked, in their order. Every word of the text must be there."""
        if not query.active:
            return self.findings
        found: Iterable[int] = range(len(self.findings))
        for name in FILTERS:
            if wanted := getattr(query, name):
                values = self.values(name)
                found = [n for n in found if values[n] == wanted]
        for word in query.text.casefold().split():
            texts = self._searched()
            found = [n for n in found if word in texts[n]]
        return [self.findings[n] for n in found]

    def _searched(self) -> list[str]:
        if self._texts is None:
            self._texts = [
                " ".join(
                    (f.rule, f.name, place(f.site), f.message, *f.fixes)
                    + ((f.site.module or "", f.site.function) if f.site else ())
                ).casefold()
                for f in self.findings
            ]
        return self._texts
