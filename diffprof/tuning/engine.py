"""Try the fixes of a plan one after the other on the pipeline that was scanned: apply, scan again, measure,
compare the output, keep or undo."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from diffprof.devices import Device, resolve_device
from diffprof.judge.acceptance import Decision, accept, too_close
from diffprof.judge.judging import make_report
from diffprof.judge.plan import Choice, make_plan
from diffprof.judge.reasons import python_said, said
from diffprof.judge.recipes import recipes
from diffprof.judge.registry import watched_names
from diffprof.model.collection import collection
from diffprof.model.errors import DiffprofError, UsageError, carrying
from diffprof.model.finding import Finding
from diffprof.model.fix import (
    Code,
    Difference,
    Outcome,
    PlanStep,
    Reason,
    Recipe,
    Safety,
    Simulated,
    Skipped,
    Stage,
    Status,
)
from diffprof.model.progress import Progress
from diffprof.model.recording import Change, Recording
from diffprof.model.report import Report
from diffprof.scanning.session import our_own, target_failure
from diffprof.targets import Options, Target, resolve
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.script import ScriptTarget
from diffprof.tuning.difference import Output
from diffprof.tuning.pictures import pictures
from diffprof.tuning.scans import analyzers_of, captured, seen_between
from diffprof.tuning.trial import RoundingUnknown, Trial, TrialMark, trial_for

ONLY_COMPILED = {"encoders": False, "cures": False}
"""Settings of a look for graph breaks: at what fixes compile, and for no more than that it breaks."""

NOT_ALONE = (Stage.QKV, Stage.LAYOUT)
"""Stages before compiling whose gain may show in compiled code only."""


@dataclass(frozen=True)
class Tuned:
    """report: the scanned report with plan and outcomes. after: the scan with everything that was kept; None
    where nothing was, or no scan was asked for. pictures: what the compared calls made before and after, as
    files to store."""

    report: Report
    after: Report | None
    pictures: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Kept:
    """A fix that is applied. before: the state that it was applied to."""

    step: PlanStep
    code: Code
    modelled: Simulated | None
    before: TrialMark


def tune(
    report: Report,
    choice: Choice | None = None,
    *,
    progress: Progress | None = None,
    clock: Callable[[], float] | None = None,
    rescan: bool = True,
    which: int = 0,
) -> Tuned:
    """Build the report's target again, and try the fixes that its findings name.

    rescan: whether what was kept is scanned at the end, for `after`. which: of a script's pipelines the one
    that the report is on, counted from 0.

    The pipeline, and the process, are as before at the end. Raises UsageError for a target that can't be
    built again, TargetError where it fails; that error, and a KeyboardInterrupt, carries the report with the
    outcomes until then as `.report`.
    """
    target, options = rebuilt(report)
    if isinstance(target, ScriptTarget):
        target = dataclasses.replace(target, which=which)
    device = resolve_device(report.recording.device.spec)
    work = Tuning(report, choice or Choice(), target, device, options, progress or Progress(), clock, rescan)
    with work.keeping_outcomes(), device.active():
        target.load_code()
        return target.run(work.run, device, options)


def rebuilt(report: Report) -> tuple[Target, Options]:
    """The target of a report and the options that it was built with.

    Raises UsageError for a live pipeline, an imported trace, and options that could not be stored.
    """
    info = report.recording.target
    if info.kind == "object":
        raise UsageError(
            f"The run is of a live pipeline ({info.spec}), which can't be built again.",
            "Use `diffprof.optimize(pipe, **call)` in the program that has it, or scan a factory.",
        )
    if info.kind == "trace":
        raise UsageError(
            f"The run is of a trace ({info.spec}): there is no pipeline to change.",
            "Scan the target that it was recorded from.",
        )
    if info.fixed:
        raise UsageError(
            f"The run is of a pipeline after fixes ({', '.join(info.fixed)}).",
            "Fix the run that it came from; `diffprof runs` lists them.",
        )
    if info.lost:
        raise UsageError(
            f"The run was called with what a report can't hold: {', '.join(info.lost)}.",
            "Give it in a factory file.py:function that returns (pipeline, call_kwargs), and scan that.",
        )
    known = {name: value for name, value in info.options.items() if name in Options.__dataclass_fields__}
    return resolve(info.spec, info.args), Options(**known)


class Tuning:
    """The work on one report."""

    def __init__(
        self,
        report: Report,
        choice: Choice,
        target: Target,
        device: Device,
        options: Options,
        progress: Progress,
        clock: Callable[[], float] | None = None,
        rescan: bool = True,
    ) -> None:
        self.report = report
        self.rescan = rescan
        self.choice = choice
        self.target = target
        self.device = device
        self.options = options
        self.progress = progress
        self.clock = clock
        self.recipes = recipes()
        self.outcomes: list[Outcome] = []
        self.kept: list[_Kept] = []
        self.plan = make_plan(report, choice)
        self.now = report
        self.trying: PlanStep | None = None

    # --- the whole ------------------------------------------------------------------------------------

    def run(self, call: PipelineCall) -> Tuned:
        """Try all selected steps on a pipeline call, and scan what came of it."""
        # On a simulated GPU only small objects become garbage, and each collection walks all that is kept.
        with collection(self.device.wants_values):
            return self._run(call)

    def _run(self, call: PipelineCall) -> Tuned:
        self.progress.stage("baseline")
        trial = self._trial(call)
        self.trial = trial
        original = trial.mark()
        try:
            self.baseline = self.before = trial.measured()
            self.first_output = self.output = trial.output()
            self.own_noise = self._own_noise(trial)
            for step in self._order():
                self._attempt(step)
            for step in self._second_chances():
                if not self._done() & set(step.conflicts):
                    self._attempt(step, again=True)
            after = self._after() if self.kept and self.rescan else None
        except KeyboardInterrupt:
            self._interrupted()
            raise
        finally:
            trial.restore(original)
        seen = [output.image if output else None for output in (self.first_output, self.output)]
        return Tuned(self.with_outcomes(), after, pictures(*seen))

    def _trial(self, call: PipelineCall) -> Trial:
        settings = self.report.recording.settings
        kind = trial_for(self.device)
        return kind(call, self.device, self.target, self.options, settings, self.progress, self.clock)

    def _own_noise(self, trial: Trial) -> float:
        """How far the pipeline's own output is from itself at the same seed, from call to call."""
        if self.output is None:
            return 0.0
        again = trial.difference(self.output, trial.output_again(self.output))
        if again.bit_equal is not False:
            return 0.0
        return max(again.max_abs or 0.0, again.latents_max_abs or 0.0)

    def _order(self) -> list[PlanStep]:
        """The selected steps as they are tried: by stage, but what quantizes after what compiles, where its
        gain shows."""
        chosen = list(self.plan.selected)
        if any(step.stage == Stage.COMPILE for step in chosen):
            chosen.sort(
                key=lambda step: 1 if step.stage == Stage.QUANTIZE else 2 * (step.stage > Stage.COMPILE)
            )
        return chosen

    def _second_chances(self) -> list[PlanStep]:
        """Steps that gave way to one that was not kept, and those that gained nothing before the pipeline was
        compiled."""
        kept = {kept.step.fix for kept in self.kept}
        found = [
            step
            for step in self.plan.steps
            if step.gives_way_to is not None and not kept & set(step.conflicts)
        ]
        if any(kept.step.stage == Stage.COMPILE for kept in self.kept):
            undone = {o.fix for o in self.outcomes if o.status is Status.UNDONE and not _broke(o)}
            found += [s for s in self.plan.selected if s.stage in NOT_ALONE and s.fix in undone]
        return found

    # --- one fix --------------------------------------------------------------------------------------

    def _attempt(self, step: PlanStep, *, again: bool = False) -> None:
        self.trying = step
        tries = len(self.plan.selected)
        self.progress.part(step.fix, step.title, f"{min(len(self.outcomes) + 1, tries)}/{tries}")
        if again:
            self.outcomes = [outcome for outcome in self.outcomes if outcome.fix != step.fix]
        recipe = self.recipes[step.fix]
        state = self.trial.mark()
        kept = list(self.kept)
        now = self.now
        try:
            later = self._step_back(step)
            code, why = self._code(step, recipe)
            if code is None:
                self._back(state, kept, now)
                self._add(step, Status.SKIPPED, why=why)
            else:
                modelled = self._modelled(step, recipe)
                here = self.trial.mark() if later else state
                uncompared = self._apply(step, code, modelled, here)
                for each in later:
                    self._apply(each.step, each.code, each.modelled, self.trial.mark())
                if not self._stays(self.kept[-1 - len(later)], state, uncompared):
                    self._back(state, kept, now)
        except KeyboardInterrupt:
            self._back(state, kept, now)
            raise
        except BaseException as error:  # also where the call ends the process
            self._back(state, kept, now)
            self._add(step, Status.FAILED, why=_reason(error))
        self.trying = None

    def _step_back(self, step: PlanStep) -> list[_Kept]:
        """Undo the kept fixes of later stages; they are applied again after the step."""
        later = [kept for kept in self.kept if kept.step.stage > step.stage]
        if later:
            self.trial.restore(later[0].before)
            self.kept = [kept for kept in self.kept if kept not in later]
        return later

    def _back(self, state: TrialMark, kept: list[_Kept], now: Report) -> None:
        self.trial.restore(state)
        self.kept, self.now = kept, now

    def _apply(self, step: PlanStep, code: Code, modelled: Simulated | None, here: TrialMark) -> str | None:
        recipe, run = self.recipes[step.fix], code
        if self.device.gpu is not None and recipe.stand_in is not None:
            found = recipe.stand_in(self.report.recording, self._own(step, self.report))
            run = found if isinstance(found, Code) else code
        uncompared = self.trial.apply(step.fix, run, modelled)
        if self.device.gpu is not None:
            uncompared = uncompared or recipe.not_on_cpu or None
        self.kept.append(_Kept(step, code, modelled, here))
        return uncompared

    def _code(self, step: PlanStep, recipe: Recipe) -> tuple[Code | None, str]:
        """The code for the pipeline as it is now, or why there is none."""
        if step.stage == Stage.QUANTIZE:
            # Which layers gain depends on their type and on fused projections.
            self._look(("quantization",))
        clash = next((key for key in step.conflicts if key in self._done()), None)
        if clash is not None:
            return None, f"It conflicts with {clash}: {step.conflicts[clash]}."
        own = self._own(step, self.now)
        if not own:
            return None, "An earlier fix has already resolved what it is for."
        code = recipe.written(self.now.recording, own, shims=self.choice.shims)
        unknown = step.stage == Stage.COMPILE and self.now.recording.captures is None
        if unknown and isinstance(code, Code) and not self.trial.compiles_whole(step.fix, code):
            # `fullgraph=True` raises where a graph breaks.
            self._look(("graph-breaks",), ONLY_COMPILED)
            code = recipe.written(self.now.recording, own, shims=self.choice.shims)
        if isinstance(code, Skipped):
            return None, code.why
        why = recipe.fits(self.trial.pipe) if recipe.fits else None
        return (None, why) if why else (code, "")

    def _modelled(self, step: PlanStep, recipe: Recipe) -> Simulated | None:
        if recipe.modelled is None:
            return None
        return recipe.modelled(self.now.recording, self._own(step, self.now))

    def _changes(self) -> frozenset[Change]:
        """Of the set-up, those that the steps make that are or may be tried."""
        steps = (step for step in self.plan.steps if step.selected or step.gives_way_to is not None)
        return frozenset(change for step in steps if (change := self.recipes[step.fix].change) is not None)

    def _planned(self) -> set[str]:
        return {step.fix for step in self.plan.selected}

    def _done(self) -> set[str]:
        return {kept.step.fix for kept in self.kept}

    def _own(self, step: PlanStep, report: Report) -> list[Finding]:
        return [finding for finding in report.findings if step.fix in finding.fixes]

    def _stays(self, new: _Kept, state: TrialMark, uncompared: str | None) -> bool:
        """Measure and compare what is applied now, and judge the new fix.

        state: the one without it.
        """
        step, code = new.step, new.code
        looked = self.now
        before_findings = [self.report.findings[n] for n in step.findings]
        wanted = analyzers_of(step.rules) or watched_names()
        self.trial.expect(wanted, self._changes())
        after = self.trial.measured()
        if too_close(self.before, after):
            memory = self.before.memory_bytes, after.memory_bytes
            self.before, after = self.trial.timed_again(state, self.trial.mark(), memory)
        output = None if uncompared else self.trial.output_after(new.modelled)
        compared = self.trial.difference(self.output, output)
        change = replace(compared, why_not=uncompared) if uncompared else compared
        self._look(wanted)
        seen = seen_between(looked, self.now, before_findings, step.rules)
        noise, unsure = self._noise(step, change, state)
        decision = accept(
            *(step.safety, step.tolerance, self.choice.goal, self.before, after, change, seen, noise),
            keep_unchecked=self.choice.keep_unchecked,
        )
        keep = decision.keep
        own_python = self._own_python(state)
        why = said(decision) + ("" if keep else unsure) + python_said(own_python, code)
        if keep and step.stage == Stage.COMPILE:
            why += captured(self.now.recording) or whole_on(output)
        from_baseline = self.trial.difference(self.first_output, output)
        self._add(
            step,
            _status(decision),
            reason=decision.reason,
            why=why,
            before_ms=self.before.ms,
            after_ms=after.ms,
            spread_ms=_larger(self.before.spread_ms, after.spread_ms),
            grade=after.grade,
            max_abs_diff=change.max_abs if change.max_abs is not None else change.latents_max_abs,
            difference=change,
            from_baseline=None if uncompared else from_baseline,
            memory_before_bytes=self.before.memory_bytes,
            memory_after_bytes=after.memory_bytes,
            in_loop_before=seen.in_loop_before,
            in_loop_after=seen.in_loop_after,
            resolved=seen.resolved,
            remaining=seen.remaining,
            code=code.shown,
            written=code,
            python_ratio=own_python,
        )
        if keep:
            self.before = after
            if output is None:
                # What was kept unchecked is in the output that the next one is compared with.
                self.output = self.trial.output()
            elif not output.how:  # the twin goes on uncompiled
                self.output = output
        return keep

    def _own_python(self, state: TrialMark) -> float | None:
        """CPU time of the Python outside of the models, as a share of what it took before the new fix; None
        where nobody measured, as of what does not run in a call."""
        now, before = self.trial.python, state.python
        return None if now is None or now == before else now / (before or 1.0)

    def _noise(self, step: PlanStep, change: Difference, state: TrialMark) -> tuple[float, str]:
        """A change of the output that says nothing: the pipeline's own from call to call, and for a fix that
        may round differently twice what half precision itself is from float32; and a sentence where that
        could not be told."""
        over = step.tolerance is not None and (change.max_abs or 0.0) > step.tolerance
        if step.safety is not Safety.NUMERIC or not over:
            return self.own_noise, ""
        here = self.trial.mark()
        try:
            self.trial.restore(state)
            return max(self.own_noise, 2.0 * self.trial.rounding(self.output)), ""
        except RoundingUnknown as error:
            unknown = f" How much of it half precision itself makes is unknown: in float32 {error}."
            return self.own_noise, unknown
        finally:
            self.trial.restore(here)

    # --- scanning -------------------------------------------------------------------------------------

    def _look(self, analyzers: Sequence[str], settings: Mapping[str, object] | None = None) -> None:
        """Scan the pipeline as it is, and put the new sections in place of the old."""
        seen = self.trial.look(analyzers, settings)
        fresh = {
            name: value
            for name in Recording.__struct_fields__
            if (value := getattr(seen, name)) is not None and name not in ("seconds", "created", "unseen")
        }
        was = self.now.recording
        self.now = make_report(replace(was, **fresh))

    def _after(self) -> Report:
        """The scan of what was kept, with the analyzers that the report has."""
        self.progress.part("kept", "scan of what was kept")
        wanted = self.report.recording.analyzers or watched_names()
        self.trial.expect(wanted, None)
        seen = self.trial.look(wanted)
        fixed = tuple(kept.step.fix for kept in self.kept)
        return make_report(replace(seen, target=replace(seen.target, fixed=fixed)))

    # --- outcomes -------------------------------------------------------------------------------------

    def _add(self, step: PlanStep, status: Status, **more: Any) -> None:
        self.outcomes.append(
            Outcome(fix=step.fix, title=step.title, safety=step.safety, status=status, **more)
        )

    def _interrupted(self) -> None:
        if self.trying is not None:
            self._add(self.trying, Status.INTERRUPTED, why="Stopped by Ctrl-C, and undone.")

    def with_outcomes(self) -> Report:
        """The scanned report with the plan and what became of it until now: fixes in the order in which they
        were tried last, then those that were not to be tried."""
        tried = {outcome.fix for outcome in self.outcomes}
        untried = [
            Outcome(
                fix=step.fix,
                title=step.title,
                safety=step.safety,
                status=Status.ADVICE if step.safety is Safety.ADVICE else Status.SKIPPED,
                why=step.why_not or "",
            )
            for step in self.plan.listed
            if not step.selected and step.fix not in tried
        ]
        return replace(self.report, plan=self.plan, outcomes=(*self.outcomes, *untried), after=None)

    @contextmanager
    def keeping_outcomes(self) -> Iterator[None]:
        """Errors that leave the block carry the report with the outcomes so far."""
        try:
            yield
        except (DiffprofError, KeyboardInterrupt) as error:
            if not self.outcomes:
                raise
            raise carrying(error, self.with_outcomes()) from error.__cause__
        except BaseException as error:
            if isinstance(error, Exception) and our_own(error):
                raise
            raise target_failure(self.target.spec, error) from error


def _broke(outcome: Outcome) -> bool:
    """Whether it was undone for what it did to the output, not for its time."""
    return outcome.reason is Reason.CHANGED


def _status(decision: Decision) -> Status:
    if decision.unchecked:
        return Status.KEPT_UNCHECKED if decision.keep else Status.UNCHECKED
    return Status.KEPT if decision.keep else Status.UNDONE


def whole_on(output: Output | None) -> str:
    """What compiling the twin showed of the graphs."""
    return " Dynamo captures each part in one graph on the twin." if output and output.whole else ""


def _larger(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return max(known) if known else None


def _reason(error: BaseException) -> str:
    """What was raised, and on which line of the fix."""
    import traceback

    text = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = " ".join(text[:2]) if text and text[0].endswith(":") else "".join(text[:1])
    raised = f"{type(error).__name__}{': ' + first if first else ''}"
    frames = [
        f
        for f in traceback.extract_tb(error.__traceback__)
        if f.filename.startswith(("<fix ", "optimized.py, "))
    ]
    where = f" at {frames[-1].line!r}" if frames and frames[-1].line else ""
    return f"It raised {raised}{where}; undone."
