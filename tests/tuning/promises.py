"""Carries out what a plan promises, in the same simulator: each fix alone, and all that are selected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import NamedTuple

from diffprof.devices import resolve_device
from diffprof.devices.borrow import lent
from diffprof.judge.judging import make_report
from diffprof.judge.plan import Choice, make_plan
from diffprof.judge.recipes import recipes
from diffprof.model.fix import Code, Plan, PlanStep, Safety, Stage
from diffprof.model.progress import Progress
from diffprof.model.report import Report
from diffprof.scanning.session import Session
from diffprof.targets import Options, Target
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.twin.shrinking import NoTwin
from diffprof.tuning import trial

ANALYZERS = ("syncs", "kernels", "setup")


class Promise(NamedTuple):
    """What fixes were to save and what the call is shorter with them, in ms."""

    fixes: tuple[str, ...]
    promised: float
    got: float

    @property
    def kept(self) -> bool:
        """Within 5 % or 1 ms."""
        return abs(self.promised - self.got) <= max(1.0, 0.05 * max(self.promised, self.got))


class _Trial(trial.SimulatedTrial):
    """Times alone: no output is compared."""

    def __init__(self, call: PipelineCall, *args: object) -> None:
        trial.Trial.__init__(self, call, *args)  # type: ignore[arg-type]
        self.twin, self._twin, self._looked, self.no_twin = None, None, None, str(NoTwin("not compared"))
        self.compiling, self._original, self._cpu_seconds, self._expected = (), None, None, ()

    def ms(self) -> float:
        return self.measured().ms

    def make(self, steps: Sequence[PlanStep], report: Report) -> bool:
        """Apply these; whether all could be."""
        for step in steps:
            recipe = recipes()[step.fix]
            own = [report.findings[n] for n in step.findings]
            code = recipe.code(self.look(ANALYZERS), own)  # for the pipeline as the steps before left it
            if not isinstance(code, Code) or (recipe.fits and recipe.fits(self.pipe)):
                return False
            modelled = recipe.modelled(report.recording, own) if recipe.modelled else None
            run = recipe.stand_in(report.recording, own) if recipe.stand_in else code
            assert isinstance(run, Code)
            self.apply(step.fix, run, modelled)
        return True


def promises(
    target: Target, options: Options, gpu: str, *, together: bool = False, unknown: bool = False
) -> list[Promise]:
    """Scan a target, then carry out each fix of its plan that promises something. unknown: and each other,
    as if it promised nothing."""
    device = resolve_device(f"sim:{gpu}")

    def play(call: PipelineCall) -> list[Promise]:
        with lent(call.pipe, device) if target.kind == "object" else nullcontext():
            return carried_out(call)

    def carried_out(call: PipelineCall) -> list[Promise]:
        session = Session(target, device, options, ANALYZERS)
        session.lends = False
        report = make_report(session.record(call))
        plan = make_plan(report, Choice(lossy=True))
        tried = _Trial(call, device, target, options, {}, Progress())
        return [
            *_alone(tried, plan, report, unknown=unknown),
            *(_together(tried, plan, report) if together else ()),
        ]

    with device.active():
        target.load_code()
        return target.run(play, device, options)


def _alone(tried: _Trial, plan: Plan, report: Report, *, unknown: bool) -> Iterator[Promise]:
    start = tried.mark()
    compile_step = next((step for step in plan.steps if step.fix == "compile"), None)
    for step in plan.steps:
        if (step.saves_ms is None and not unknown) or step.safety is Safety.ADVICE or not step.code:
            continue
        if step.once_compiled and compile_step is not None:
            tried.make([compile_step], report)
        before = tried.ms()
        if tried.make([step], report):
            yield Promise((step.fix,), step.saves_ms or 0.0, before - tried.ms())
        tried.restore(start)


def _together(tried: _Trial, plan: Plan, report: Report) -> Iterator[Promise]:
    start = tried.mark()
    known = [step for step in plan.selected if step.saves_ms is not None]
    chosen = sorted(known, key=lambda step: step.stage if step.stage != Stage.QUANTIZE else 200)
    before = tried.ms()
    if tried.make(chosen, report):
        assert plan.saves_ms is not None
        yield Promise(tuple(step.fix for step in chosen), plan.saves_ms, before - tried.ms())
    tried.restore(start)
