"""A live pipeline: scan it, try what its findings call for, and leave on it what helped."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.devices import resolve_device
from diffprof.devices.borrow import lent
from diffprof.judge.plan import Choice
from diffprof.model.fix import Code
from diffprof.model.pipeline import Pipeline
from diffprof.model.progress import Progress
from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options, from_object
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.tuning.engine import Tuned, Tuning
from diffprof.tuning.subject import Subject


def optimize(
    pipe: Pipeline,
    *,
    device: str | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    lossy: bool = False,
    goal: str = "latency",
    keep_unchecked: bool = False,
    shims: bool = False,
    **call: object,
) -> Report:
    """Scan a pipeline, try each fix that its findings name, and leave on it those that helped.

    device, select, ignore, lossy, goal, keep_unchecked, shims: as for `diffprof fix --apply`. call: the
    arguments of the call that is scanned, timed and compared. What must stand at call time
    (`Outcome.written.call` and `.around`) can not be left on a pipeline, and is in the report's outcomes
    only. Raises what
    `diffprof.scan` raises; the pipeline is then as it was.
    """
    where = resolve_device(device)
    target = from_object(pipe, kwargs=call)
    report = scan_target(target, device=where.spec)
    choice = Choice(
        select=tuple(select),
        ignore=tuple(ignore),
        lossy=lossy,
        goal=goal,
        keep_unchecked=keep_unchecked,
        shims=shims,
    )
    work = Tuning(report, choice, target, where, Options(), Progress())

    def play(pipeline_call: PipelineCall) -> Tuned:
        with lent(pipeline_call.pipe, where):
            return work.run(pipeline_call)

    with work.keeping_outcomes(), where.active():
        tuned = target.run(play, where, Options())
    _leave(pipe, tuned.report, PipelineCall(pipe, (), dict(call), target, "real"))
    return tuned.report


def _leave(pipe: Pipeline, report: Report, call: PipelineCall) -> None:
    """Apply what was kept, in the order of application."""
    order = [step.fix for step in report.plan.steps] if report.plan else []
    kept: dict[str, Code] = {
        outcome.fix: outcome.written
        for outcome in report.outcomes or ()
        if outcome.stays and outcome.written is not None
    }
    subject = Subject(call)
    for key in sorted(kept, key=order.index):
        subject.apply(key, kept[key])
