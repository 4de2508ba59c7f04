"""The fix plan and its outcomes as tables, for pages."""

from __future__ import annotations

from diffprof.fix import Difference, Outcome, Plan, PlanStep
from diffprof.views.sections import Table
from diffprof.views.words import NOT_MEASURED, milliseconds, number, plural, size


def fix_table(plan: Plan, outcomes: tuple[Outcome, ...] | None) -> Table | None:
    """What became of the fixes, or, where none was tried, what is planned; None without either."""
    if outcomes:
        return Table("Fixes tried", _TRIED, tuple(map(_tried, outcomes)), _total(outcomes))
    if plan.steps:
        return Table("Fixes planned", _PLANNED, tuple(map(_planned, plan.steps)), _expected(plan))
    return None


_TRIED = ("fix", "status", "safety", "one call", "waits in loop", "peak memory", "output", "why")
_PLANNED = ("fix", "selected", "safety", "saves", "what it does")


def _tried(each: Outcome) -> tuple[str, ...]:
    return (
        each.fix,
        str(each.status),
        str(each.safety),
        _change(each),
        _pair(each.in_loop_before, each.in_loop_after, str),
        _pair(each.memory_before_bytes, each.memory_after_bytes, size),
        _output(each.difference),
        each.why,
    )


def _change(each: Outcome) -> str:
    if each.before_ms is None or each.after_ms is None:
        return NOT_MEASURED
    spread = "" if each.spread_ms is None else f" ± {number(each.spread_ms)}"
    return f"{number(each.before_ms)} → {number(each.after_ms)}{spread} ms ({each.grade or NOT_MEASURED})"


def _pair(before: int | None, after: int | None, shown: object) -> str:
    assert callable(shown)
    return NOT_MEASURED if before is None or after is None else f"{shown(before)} → {shown(after)}"


def _output(found: Difference | None) -> str:
    if found is None:
        return NOT_MEASURED
    if found.why_not:
        return f"not compared: {found.why_not}"
    if found.bit_equal:
        return f"bit-identical, on {found.compared_on}"
    parts = [
        f"max {found.max_abs:.2g}" if found.max_abs is not None else "",
        f"PSNR {found.psnr_db:.1f} dB" if found.psnr_db is not None else "",
        f"SSIM {found.ssim:.4f}" if found.ssim is not None else "",
    ]
    return f"{', '.join(filter(None, parts)) or 'changed'}, on {found.compared_on}"


def _total(outcomes: tuple[Outcome, ...]) -> str:
    kept = sum(1 for each in outcomes if each.status == "kept")
    return f"{kept} of {plural(len(outcomes), 'fix', 'fixes')} kept"


def _planned(step: PlanStep) -> tuple[str, ...]:
    saves = [
        f"{milliseconds(step.saves_ms)} per call ({step.grade})" if step.saves_ms is not None else "",
        f"{size(step.saves_bytes)} of memory" if step.saves_bytes is not None else "",
    ]
    return (
        step.fix,
        "yes" if step.selected else f"no: {step.why_not or 'not chosen'}",
        str(step.safety) + (f", within {step.tolerance:g}" if step.tolerance is not None else ""),
        ", ".join(filter(None, saves)) or "not known before it is tried",
        step.title,
    )


def _expected(plan: Plan) -> str:
    if plan.before_ms is None or plan.after_ms is None:
        return "None was tried; `diffprof fix` applies and measures them"
    return (
        f"One call: {milliseconds(plan.before_ms)}, with the selected fixes {milliseconds(plan.after_ms)} "
        f"expected ({plan.grade or 'not measured'}); `diffprof fix` applies and measures them"
    )
