"""What a target does under one scheduler: a row of `diffprof schedulers`. Torch-free."""

from __future__ import annotations

import msgspec

from diffprof.model.recording import Grade, steady_per_step
from diffprof.model.report import Report


class SchedulerRow(msgspec.Struct, frozen=True, kw_only=True):
    """Blocking operations of one call. `None`: not known, because the call failed."""

    scheduler: str
    steps: int | None = None
    in_loop: int | None = None
    per_step: float | None = None
    """Steady state: the steps between the first and the last."""
    outside: int | None = None
    sites: tuple[str, ...] = ()
    """`file:line` of what blocks in the loop, most often first."""
    grade: Grade | None = None
    error: str | None = None
    """Why the target does not run with it."""


def scheduler_row(scheduler: str, report: Report) -> SchedulerRow:
    """The row of a report; without counts where syncs were not recorded."""
    recording = report.recording
    if recording.syncs is None:
        return SchedulerRow(scheduler=scheduler, error=recording.failure or "syncs not recorded")
    looped = sorted((row for row in recording.syncs if row.in_loop), key=lambda row: -row.count)
    return SchedulerRow(
        scheduler=scheduler,
        steps=recording.target.steps,
        in_loop=sum(row.count for row in looped),
        per_step=steady_per_step(looped),
        outside=sum(row.count for row in recording.syncs if not row.in_loop),
        sites=tuple(dict.fromkeys(f"{row.site.file}:{row.site.line}" for row in looped)),
        grade=recording.device.grade,
        error=recording.failure if recording.partial else None,
    )
