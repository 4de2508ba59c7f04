"""Reports in which every text is hostile, whatever it is for."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from diffprof.model.finding import Severity
from diffprof.model.fix import Difference, Outcome, Plan, PlanStep, Safety, SourceEdit, SourceEdits, Status
from diffprof.model.recording import Grade
from diffprof.model.report import Report
from tests import builders
from tests.views.tui import reports

NUL = "a\0b\x7f\x85\u2028c"
RIGHT_TO_LEFT = "\u202eשלום\u2066 abc עולם\u2069"
WIDE = "👩‍💻词🇩🇪é " * 60
"""Emoji of several code points, two cells wide."""
LONG = "n" * 2_000

TEXTS = {
    "ugly": builders.UGLY,
    "nul": NUL,
    "right-to-left": RIGHT_TO_LEFT,
    "wide": WIDE,
    "long": LONG,
    "empty": "",
}

_DIFF = "--- a\n+++ b\n@@ -1 +1 @@\n-x\n+y\n"
Data = TypeVar("Data", bound=msgspec.Struct)
_CHOICES = {value for choice in (Grade, Severity, Safety, Status) for value in choice}


def poisoned(data: Data, text: str) -> Data:
    """The same data with every text replaced, but those of which there is a fixed choice."""
    return msgspec.convert(_replaced(msgspec.to_builtins(data), text), type(data))


def _replaced(value: Any, text: str) -> Any:
    if isinstance(value, str):
        return value if value in _CHOICES or value == "sim" else text
    if isinstance(value, dict):
        return {key: _replaced(item, text) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(item, text) for item in value]
    return value


def whole() -> Report:
    """A report with every section, a plan and outcomes."""
    steps = tuple(
        PlanStep(
            fix=safety.value,
            title="Change it",
            safety=safety,
            stage=10,
            rules=("SYN001",),
            findings=(0,),
            selected=safety is Safety.EXACT,
            why_not=None if safety is Safety.EXACT else "no",
            conflicts={"other": "they clash"},
            code="pipe.x = 1",
            patch=_DIFF,
            no_patch="It is read-only.",
            why="It is so.",
        )
        for safety in Safety
    )
    outcomes = tuple(
        Outcome(
            fix=status.value,
            title="Change it",
            safety=Safety.EXACT,
            status=status,
            why="It raised.",
            before_ms=2.0,
            after_ms=1.0,
            grade=Grade.SIMULATED,
            difference=Difference(compared_on="a twin", why_not="it has no values"),
            resolved=("SYN001",),
            remaining=("SYN002",),
            code="pipe.x = 1",
        )
        for status in Status
    )
    full = reports.full()
    edits = tuple(
        SourceEdit(rule=each.rule, file=each.site.file, line=each.site.line, what=("It moves.",), diff=_DIFF)
        for each in full.findings
        if each.site is not None
    )
    plan = Plan(
        steps=steps, before_ms=2.0, after_ms=1.0, grade=Grade.SIMULATED, edits=edits, notes=("Mind this.",)
    )
    source = SourceEdits(findings=edits, fixes={"exact": _DIFF})
    return msgspec.structs.replace(full, plan=plan, outcomes=outcomes, after="after", source=source)
