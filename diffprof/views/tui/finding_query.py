"""Which findings are shown: filters and text search over a report's findings. Plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from diffprof.finding import Finding
from diffprof.rules import all_rules
from diffprof.views.words import place

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
        self._analyzers = {rule.code: rule.analyzer.replace("_", " ") for rule in all_rules()}
        self._texts: list[str] | None = None

    def analyzer(self, finding: Finding) -> str:
        """The analyzer whose rule it is; the rule's prefix for a rule that this version does not have."""
        return self._analyzers.get(finding.rule, finding.rule.rstrip("0123456789"))

    def choices(self, name: str) -> tuple[str, ...]:
        """The values that a filter can have here, in the order in which they come."""
        if name == "loop":
            found = [LOOP[0] if f.in_loop else LOOP[1] for f in self.findings]
        elif name == "analyzer":
            found = [self.analyzer(f) for f in self.findings]
        elif name == "phase":
            found = [f.phase or "" for f in self.findings]
        else:
            found = [str(f.grade) for f in self.findings]
        return tuple(value for value in dict.fromkeys(found) if value)

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
        words = query.text.casefold().split()
        texts = self._searched() if words else [""] * len(self.findings)
        return [
            finding
            for finding, text in zip(self.findings, texts, strict=True)
            if all(word in text for word in words)
            and (not query.loop or finding.in_loop == (query.loop == LOOP[0]))
            and (not query.phase or finding.phase == query.phase)
            and (not query.grade or finding.grade == query.grade)
            and (not query.analyzer or self.analyzer(finding) == query.analyzer)
        ]

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
