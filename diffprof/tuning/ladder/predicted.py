"""Rungs of the ladder on a simulated GPU: the pipeline runs once a distinct form, the costs follow."""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.analyzers.quantization.published import published_list
from diffprof.devices import Device, simulated_sheet
from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.assembly import compiled_root
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Chooser, current_mode
from diffprof.gpu.products import product_of
from diffprof.judge.steps import with_steps
from diffprof.judge.timeline import total_us
from diffprof.model.ladder import RungResult
from diffprof.model.recording import Grade, Timeline
from diffprof.targets.baseline import Inapplicable, Rung, prepare
from diffprof.targets.compiled import compiled_roots
from diffprof.targets.pipeline import PhaseTracker
from diffprof.tuning.ladder import GIB

if TYPE_CHECKING:
    from diffprof.targets import Options, Target
    from diffprof.targets.pipeline_call import PipelineCall

FEW_STEPS = 4
"""Steps to run first: enough for most solvers to repeat themselves."""

MORE_STEPS = 8


@dataclass(frozen=True)
class _Form:
    """What makes two rungs launch the same operations."""

    dtype: str
    sdpa: bool
    fused_qkv: bool
    compiled: bool


@dataclass
class _Run:
    kernels: SimulatedKernels
    roots: tuple[str, ...]
    held: int
    """Bytes on the device before the pipeline was built, which are others'."""


class PredictedRungs:
    """The rungs of one target on one simulated GPU."""

    def __init__(self, target: Target, device: Device, options: Options) -> None:
        self.target = target
        self.device = device
        self.gpu = simulated_sheet(device)
        self.options = options
        self._runs: dict[_Form, _Run | str] = {}

    def of(self, rung: Rung) -> RungResult:
        """The prediction for one rung, or why it can't be taken."""
        result = RungResult(name=rung.name, title=rung.title, grade=Grade.SIMULATED)
        try:
            seconds = self.seconds(rung)
        except Inapplicable as reason:
            return _replaced(result, skipped=str(reason))
        run = self._ran(rung)
        memory = (run.kernels.builder.memory(run.kernels.weights).peak_bytes or 0) - run.held
        if rung.int8:
            memory -= sum(_saved_by_int8(run))
        return _replaced(result, seconds=seconds, memory_gb=memory / GIB)

    def seconds(self, rung: Rung) -> float:
        """The predicted time of a rung; the pipeline runs once.

        Raises Inapplicable where the pipeline can't take the rung.
        """
        timeline = with_steps(self._timeline(self._ran(rung), rung), self._steps)
        if timeline is None:
            longer = self._runs[_form(rung)] = self._longer(rung)
            whole = self._timeline(longer, rung)
            timeline = with_steps(whole, self._steps) or whole
        return total_us(timeline) / 1e6

    def _ran(self, rung: Rung) -> _Run:
        form = _form(rung)
        if form not in self._runs:
            try:
                self._runs[form] = self._run(rung, self._few())
            except Inapplicable as reason:
                self._runs[form] = str(reason)
        run = self._runs[form]
        if isinstance(run, str):
            raise Inapplicable(run)
        return run

    @property
    def _steps(self) -> int:
        return self.options.steps or 0

    def _few(self) -> int:
        return min(FEW_STEPS, self._steps)

    def _longer(self, rung: Rung) -> _Run:
        """Steps that don't repeat in a short run: a longer one, and all of them if that doesn't either."""
        longer = self._run(rung, min(MORE_STEPS, self._steps))
        if with_steps(self._timeline(longer, rung), self._steps) is not None:
            return longer
        return self._run(rung, self._steps)

    def _run(self, rung: Rung, steps: int) -> _Run:
        def play(call: PipelineCall) -> _Run:
            prepare(call.pipe, rung)
            roots = compiled_roots(call.pipe)
            mode = current_mode(compiled=roots if rung.compiled else ())
            kernels = SimulatedKernels(self.gpu, call.pipe, mode)
            tracker = PhaseTracker(on_change=kernels.phase)
            with (
                torch.no_grad(),
                kernels.following(),
                tracker.watching(call.pipe),
                self.device.observed(kernels, call.pipe),
            ):
                call.run()
            return _Run(kernels, roots, held)

        options = replace(self.options, steps=steps, dtype=rung.dtype)
        with self.device.active():
            gc.collect()  # what an earlier pipeline left would be counted, or freed half-way
            held = SESSION.allocated
            return self.target.run(play, self.device, options)

    def _timeline(self, run: _Run, rung: Rung) -> Timeline:
        mode = current_mode(
            compiled=run.roots if rung.compiled else (),
            quantizes=_quantizing(run.roots) if rung.int8 else None,
        )
        run.kernels.builder.model = CostModel(self.gpu, mode)
        return run.kernels.builder.finish()


def _form(rung: Rung) -> _Form:
    return _Form(rung.dtype, rung.sdpa, rung.fused_qkv, rung.compiled)


def _quantizing(roots: tuple[str, ...]) -> Chooser:
    """Chooses the layers of these parts that the published recipe quantizes: the text encoders stay."""
    chosen = published_list().quantizes

    def quantizes(module: str | None, in_features: int, out_features: int, kind: str) -> bool:
        return compiled_root(module, roots) is not None and chosen(in_features, out_features, kind)

    return quantizes


def _saved_by_int8(run: _Run) -> list[int]:
    """Bytes saved by each weight that becomes INT8, a scale a row kept: once a module."""
    seen: dict[str | None, int] = {}
    quantizes = _quantizing(run.roots)
    for item, module in run.kernels.builder.operations():
        product = product_of(item)
        if product is None or module in seen:
            continue
        if quantizes(module, product.depth, product.columns, product.kind):
            weight = item.inputs[1]
            seen[module] = weight.nbytes - weight.numel - product.columns * weight.dtype.itemsize
    return list(seen.values())


def _replaced(result: RungResult, **changes: object) -> RungResult:
    import msgspec

    return msgspec.structs.replace(result, **changes)
