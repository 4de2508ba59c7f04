"""Applies fixes of diffprof to a pipeline before its call is run."""

from __future__ import annotations

from collections.abc import Callable

from diffprof.devices import resolve_device
from diffprof.judge.judging import make_report
from diffprof.judge.recipes import find_recipe
from diffprof.model.errors import UsageError
from diffprof.model.fix import Skipped
from diffprof.scanning.session import Session
from diffprof.targets import Options, Target
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.tuning.subject import Subject

PRICED = "is priced as a mode (--mode compiled, int8 or fp8)"


def fixing(keys: str, target: Target, options: Options) -> Callable[[PipelineCall], PipelineCall]:
    """Applies these fixes, `KEY+KEY`, by what a scan of the pipeline finds.

    Raises UsageError for a fix that is not there, or can't run on the simulated GPU; the function does for
    one that has nothing to do.
    """
    found = [find_recipe(key.strip()) for key in keys.split("+")]
    for recipe in found:
        if recipe.modelled is not None:
            raise UsageError(f"The fix {recipe.fix.key} {PRICED}.", "Leave it out of --fix.")

    def apply(call: PipelineCall) -> PipelineCall:
        device = resolve_device("sim:a100-80gb")
        session = Session(target, device, options)
        report = make_report(session.record(call))
        subject = Subject(call)
        for recipe in found:
            key = recipe.fix.key
            findings = [finding for finding in report.findings if key in finding.fixes]
            code = recipe.written(report.recording, findings) if findings else Skipped("nothing needs it")
            if isinstance(code, Skipped):
                raise UsageError(f"The fix {key} does not apply: {code.why}.", "Leave it out of --fix.")
            subject.apply(key, code)
        return subject.call

    return apply
