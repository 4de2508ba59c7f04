"""How a finding about the denoising loop is made: the fields that say that it is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffprof.analyzers.kernels.loop import LoopTimes
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import median, steady


def loop_finding(
    code: str,
    name: str,
    loop: LoopTimes,
    message: str,
    advice: str,
    *,
    count: int | None = None,
    by_step: Sequence[int] = (),
    severity: Severity = Severity.HIGH,
    outside: Severity | None = None,
    **more: Any,
) -> Finding:
    """A finding of the loop, or of the whole where no steps are known.

    count: in the whole loop; by default once a step. by_step: in each step, where that is known. outside: the
    severity where no steps are known, if it is another. more: further fields.
    """
    times = max(1, loop.steps) if count is None else count
    return Finding(
        rule=code,
        name=name,
        kind=name,
        message=message,
        grade=loop.timeline.grade,
        severity=severity if loop.steps or outside is None else outside,
        phase="denoise" if loop.steps else None,
        in_loop=bool(loop.steps),
        count=times,
        **often(by_step or [1] * loop.steps),
        advice=advice,
        **more,
    )


def often(by_step: Sequence[int]) -> dict[str, Any]:
    """`per_step` and `first_step_only` of a finding, by how often it is found in each step."""
    return {
        "per_step": median(steady(by_step)) if by_step else 0.0,
        "first_step_only": len(by_step) > 1 and any(by_step) and not any(by_step[1:]),
    }
