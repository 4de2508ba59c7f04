"""The list of findings."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.model.finding import Finding, Severity
from diffprof.views.tui.styles import Span
from diffprof.views.tui.table import TableColumn, TableView

SEVERITY = {Severity.HIGH: "bad", Severity.MEDIUM: "warn", Severity.LOW: "", Severity.INFO: "muted"}
SHORT_GRADE = {"measured": "meas", "simulated": "sim", "published": "publ"}


def finding_columns() -> tuple[TableColumn[Finding], ...]:
    """Rule, how often, cost, phase, place, grade."""
    return (
        TableColumn("rule", _rule, 6, value=lambda f: f.rule),
        TableColumn("name", lambda f: f.name, 15, grow=True, value=lambda f: f.name),
        TableColumn("often", often, 8, right=True, value=lambda f: (f.in_loop, f.per_step, f.count)),
        TableColumn(
            "blocked ms", lambda f: _ms(f.blocked_ms), 10, right=True, value=lambda f: f.blocked_ms, drop=2
        ),
        TableColumn("saves ms", lambda f: _ms(f.saves_ms), 9, right=True, value=lambda f: f.saves_ms),
        TableColumn("grade", lambda f: [("muted", SHORT_GRADE[f.grade])], 5, value=lambda f: f.grade, drop=3),
        TableColumn("phase", lambda f: [("muted", f.phase or "")], 9, value=lambda f: f.phase, drop=4),
        TableColumn("place", _place, 18, grow=True, value=_place_value, end=lambda f: f.site is not None),
    )


def often(finding: Finding) -> str:
    """`2/step`, `first` (the first step only), `some` (in some steps), or the count per call."""
    if not finding.in_loop:
        return f"{finding.count:,}"
    if finding.first_step_only:
        return "first"
    rate = finding.per_step
    return f"{rate:.2g}/step" if 0 < rate < 10 else f"{rate:,.0f}/step" if rate else "some"


def _rule(finding: Finding) -> list[Span]:
    return [(SEVERITY[finding.severity], finding.rule)]


def _ms(value: float | None) -> list[Span] | str:
    return [("muted", "–")] if value is None else f"{value:,.3f}"


def _place(finding: Finding) -> list[Span]:
    """The end of the path, which tells files apart; without one, what the finding says."""
    site = finding.site
    if site is None:
        return [("muted", finding.message)]
    name = site.file.rsplit("/", 1)[-1]
    return [("place", f"{name}:{site.line}" if site.line else name)]


def _place_value(finding: Finding) -> tuple[str, int] | None:
    return (finding.site.file, finding.site.line) if finding.site else None


class FindingList(TableView[Finding]):
    """Findings, in the report's order until sorted."""

    def __init__(self, findings: Sequence[Finding], *, empty: str, id: str | None = None) -> None:
        super().__init__(finding_columns(), findings, empty=empty, id=id)
