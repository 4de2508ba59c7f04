"""A trace of a few steps of a target's call, to be sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from diffprof.devices import resolve_device
from diffprof.devices.cuda_runtime import RUNTIME
from diffprof.live.following import Following
from diffprof.live.requests import StageClock
from diffprof.live.step_trace import StepTrace
from diffprof.model.errors import TargetError, UsageError
from diffprof.targets import Options, resolve
from diffprof.targets.pipeline_call import PipelineCall


class _Enough(BaseException):
    """Ends a call once its steps are recorded."""


def record_steps(
    spec: str,
    file: Path,
    *,
    args: Sequence[str] = (),
    steps: int = 3,
    device: str | None = None,
    options: Options | None = None,
) -> int:
    """Run a target on the GPU, or without one on the CPU, and write a trace of `steps` denoising steps after
    the first; the call ends there. Returns the size of the file, bytes.

    Raises UsageError for a simulated device, and TargetError for a call with too few steps.
    """
    where = resolve_device(device or ("cuda" if RUNTIME.count() else "cpu"))
    if where.gpu is not None:
        raise UsageError(
            f"{device} is simulated: nothing to profile.", "`diffprof scan` stores a trace of it."
        )
    trace = StepTrace(steps, cuda=where.kind == "cuda")
    with where.active():
        resolve(spec, args).run(lambda call: _play(call, trace), where, options or Options())
    if trace.recorded < steps:
        raise TargetError(
            f"The call of {spec} has too few denoising steps: {trace.recorded} of {steps} after the first.",
            "Ask for fewer with --steps, or make the call longer with --set num_inference_steps=10.",
        )
    trace.export(file)
    return file.stat().st_size


def _play(call: PipelineCall, trace: StepTrace) -> None:
    def ended(done: int) -> None:
        trace.step_ended(done)
        if trace.recorded == trace.steps:
            raise _Enough

    def around(made: Callable[[], object]) -> Any:
        return following.call(StageClock(on_step=ended), made)

    following = Following(call.pipe, around)
    try:
        call.run()
    except _Enough:
        return
    finally:
        trace.close()
        following.close()
