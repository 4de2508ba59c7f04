"""How a finding about the denoising loop is made: the fields that say that it is one."""

from __future__ import annotations

from typing import Any

from diffprof.analyzers.kernels.loop import Loop
from diffprof.model.finding import Finding, Severity


def loop_finding(
    code: str,
    name: str,
    loop: Loop,
    message: str,
    advice: str,
    *,
    count: int | None = None,
    severity: Severity = Severity.HIGH,
    outside: Severity | None = None,
    **more: Any,
) -> Finding:
    """A finding of the loop, or of the whole where no steps are known.

    count: in the whole loop; by default once a step. outside: the severity where no steps are known, if it
    is another. more: further fields.
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
        per_step=times / loop.steps if loop.steps else 0.0,
        advice=advice,
        **more,
    )
