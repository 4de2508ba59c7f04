"""Part 7: fixes applied to a pipeline with planted faults: what the plan promised and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from diffprof.contact.parts import Place
from diffprof.contact.store import Work

FACTORY = f"{Path(__file__).with_name('faulty.py')}:faulty"


def items(place: Place) -> Iterator[tuple[str, Work]]:
    for goal in ("latency",) if place.short else ("latency", "memory"):
        yield f"goal {goal}", partial(tried, place, goal)


def tried(place: Place, goal: str) -> dict[str, Any]:
    """Each fix of the plan: promised and measured milliseconds, bytes, and the change of the output."""
    from diffprof.judge.plan import Choice
    from diffprof.model.fix import Status
    from diffprof.scanning.scan import scan_target
    from diffprof.tuning.engine import tune

    report = scan_target(FACTORY, device=place.device)
    skipped = ("compile", "compile-blocks")  # the ladder's part has them
    tuned = tune(report, Choice(ignore=skipped, goal=goal, lossy=goal == "memory"))
    plan = {step.fix: step for step in tuned.report.plan.steps} if tuned.report.plan else {}
    outcomes = [o for o in tuned.report.outcomes or () if o.status not in (Status.ADVICE, Status.SKIPPED)]
    return {
        "fixes": [
            {
                "fix": each.fix,
                "status": str(each.status),
                "why": each.why,
                "promised_ms": plan[each.fix].saves_ms if each.fix in plan else None,
                "promised_bytes": plan[each.fix].saves_bytes if each.fix in plan else None,
                "ms": [each.before_ms, each.after_ms],
                "bytes": [each.memory_before_bytes, each.memory_after_bytes],
                "max_abs_diff": each.max_abs_diff,
                "bit_equal": each.difference.bit_equal if each.difference else None,
                "resolved": each.resolved,
                "remaining": each.remaining,
            }
            for each in outcomes
        ],
        "findings": sorted({finding.rule for finding in report.findings}),
    }
