"""The fixes of a report as one table, for pages: what became of them, else what is planned."""

from __future__ import annotations

from msgspec.structs import replace

from diffprof.model.fix import Outcome, Plan, PlanStep
from diffprof.views.table import Table
from diffprof.views.tuning import expected, outcomes_table, safety, saving

_PLANNED = ("fix", "selected", "safety", "saves", "what it does")
_NEXT = "`diffprof fix` applies and measures them"


def fix_table(plan: Plan | None, outcomes: tuple[Outcome, ...] | None) -> Table | None:
    """None without either."""
    if outcomes:
        table = outcomes_table(outcomes)
        return replace(table, columns=tuple(column or "status" for column in table.columns))
    if plan is None or not plan.steps:
        return None
    note = f"{expected(plan) or 'None was tried.'} {_NEXT}"
    return Table("Fixes planned", _PLANNED, tuple(map(_planned, plan.listed)), note)


def _planned(step: PlanStep) -> tuple[str, ...]:
    chosen = (
        "yes" if step.selected else f"{'advice' if step.is_advice else 'no'}: {step.why_not or 'not chosen'}"
    )
    return (step.fix, chosen, safety(step), saving(step), step.title)
