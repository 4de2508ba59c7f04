"""Applies the code of fixes to a pipeline, as a module of its own would, and scans before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import diffusers as df

from diffprof.analyzers.syncs.fixes import RECIPES
from diffprof.devices import resolve_device
from diffprof.judge.judging import make_report
from diffprof.model.fix import Code
from diffprof.model.recording import Recording
from diffprof.model.report import Report
from diffprof.scanning.session import Session
from diffprof.targets import Options, resolve
from diffprof.targets.calls import swap_scheduler
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.tuning.subject import file_of, run


class DeviceSigmas(df.EulerDiscreteScheduler):
    """Keeps its sigmas on the device, for speed, and lets Python look at them."""

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **kwargs: Any) -> None:
        super().set_timesteps(num_inference_steps, device, **kwargs)
        self.sigmas = self.sigmas.to(device)

    def step(self, *args: Any, **kwargs: Any) -> Any:
        if self.step_index is not None and self.sigmas[self.step_index] < 0:
            raise ValueError("a negative sigma")
        return super().step(*args, **kwargs)


class MadeOnDevice(DeviceSigmas):
    """As above; the sigmas are computed on the device, so that no upload tells their values."""

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **kwargs: Any) -> None:
        super().set_timesteps(num_inference_steps, device, **kwargs)
        self.sigmas = self.sigmas.sqrt() ** 2


OWN = {cls.__name__: cls for cls in (DeviceSigmas, MadeOnDevice)}


def give_scheduler(pipe: Any, name: str, **config: Any) -> None:
    """A scheduler of diffusers or of this module, from the configuration of the pipeline's own."""
    cls = OWN.get(name) or getattr(df, name)
    if name not in OWN:
        swap_scheduler(pipe, name)
    pipe.scheduler = cls.from_config(pipe.scheduler.config, **config)


def in_loop(recording: Recording) -> list[str]:
    return [f"{r.kind} {r.site.file}:{r.site.line} {r.by_step}" for r in recording.syncs or () if r.in_loop]


def fixes_for(report: Report, *, shims: bool = False) -> dict[str, Code]:
    """The code of every fix that the findings in the loop name."""
    made = {}
    for recipe in RECIPES:
        own = [f for f in report.in_loop if recipe.fix.key in f.fixes]
        if own:
            code = recipe.written(report.recording, own, shims=shims)
            assert isinstance(code, Code) or recipe.shim is None, code
            made |= {recipe.fix.key: code} if isinstance(code, Code) else {}
    return made


def apply(pipe: Any, codes: dict[str, Code]) -> dict[str, Any]:
    """Each fix in one namespace, one after the other; returns it."""
    namespace: dict[str, Any] = {"pipe": pipe}
    for key, code in codes.items():
        run("\n".join(code.imports), namespace, f"<fix {key}>")
        run(code.definitions, namespace, file_of(key, code))
        run(code.optimize, namespace, f"<fix {key}>")
    return namespace


@contextmanager
def around(codes: dict[str, Code], namespace: dict[str, Any]) -> Iterator[None]:
    """The context managers of the fixes, open."""
    with ExitStack() as stack:
        for code in codes.values():
            if code.around:
                stack.enter_context(eval(code.around, namespace))
        yield


def source(codes: dict[str, Code]) -> str:
    return "\n".join(code.shown for code in codes.values())


@contextmanager
def on(
    spec: str, target: str, options: Options
) -> Iterator[Callable[[Callable[[PipelineCall, Any], Any]], Any]]:
    """Runs a function with the call of a target and a function that scans it: `scan(call) -> Report`."""
    device = resolve_device(spec)
    chosen = resolve(target)

    def scan(call: PipelineCall) -> Report:
        session = Session(chosen, device, Options(), ("syncs",))
        return make_report(session.record(dataclasses.replace(call)))

    with device.active():
        yield lambda play: chosen.run(lambda call: play(call, scan), device, options)
