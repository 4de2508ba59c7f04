"""Part 7: fixes applied to a pipeline with planted faults: what the plan promised and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffprof.contact.faulty import PLANTED
from diffprof.contact.parts import Place
from diffprof.contact.store import Work

if TYPE_CHECKING:
    from diffprof.model.report import Report

FILE = Path(__file__).with_name("faulty.py")


def items(place: Place) -> Iterator[tuple[str, Work]]:
    yield "plan", partial(planned, place)
    for fix in PLANTED:
        yield f"fix {fix}", partial(tried, place, fix)


@cache
def _report(place: Place) -> Report:
    """One scan for all items of the process."""
    from diffprof.scanning.scan import scan_target

    return scan_target(
        f"{FILE}:{'faulty_sd15' if place.real and not place.short else 'faulty'}", device=place.device
    )


def planned(place: Place) -> dict[str, object]:
    """The fixes that the findings name, with what each promises."""
    from diffprof.judge.plan import Choice, make_plan

    report = _report(place)
    plan = make_plan(report, Choice(lossy=True))
    return {
        "findings": sorted({finding.rule for finding in report.findings}),
        "promised_ms": {step.fix: step.saves_ms for step in plan.steps},
        "promised_bytes": {step.fix: step.saves_bytes for step in plan.steps if step.saves_bytes},
        "not_planned": [fix for fix in PLANTED if fix not in {step.fix for step in plan.steps}],
    }


def tried(place: Place, fix: str) -> dict[str, Any]:
    """One fix: promised and measured milliseconds and bytes, and the change of the output. planned: whether
    the plan has it."""
    from diffprof.judge.plan import Choice, make_plan
    from diffprof.tuning.engine import tune

    report = _report(place)
    steps = {step.fix: step for step in make_plan(report, Choice(lossy=True)).steps}
    if fix not in steps:
        return {"fix": fix, "planned": False}
    tuned = tune(report, Choice(select=(fix,), lossy=True), rescan=False)
    outcome = next(each for each in tuned.report.outcomes or () if each.fix == fix)
    step = steps[fix]
    return {
        "fix": fix,
        "planned": True,
        "status": str(outcome.status),
        "why": outcome.why,
        "promised_ms": step.saves_ms,
        "promised_bytes": step.saves_bytes,
        "before_ms": outcome.before_ms,
        "after_ms": outcome.after_ms,
        "before_bytes": outcome.memory_before_bytes,
        "after_bytes": outcome.memory_after_bytes,
        "max_abs_diff": outcome.max_abs_diff,
        "bit_equal": outcome.difference.bit_equal if outcome.difference else None,
        "resolved": outcome.resolved,
        "remaining": outcome.remaining,
    }
