"""One call on a simulated GPU: what its linears saw, what schemes would cost, and the whole call replayed
with chosen layers changed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from diffprof.analyzers.quantization.choice import Candidate
from diffprof.analyzers.quantization.inventory import Inventory, Key, Layer, Recorder, take_inventory
from diffprof.analyzers.quantization.predicted import Predictor
from diffprof.analyzers.quantization.schemes import Scheme
from diffprof.devices.simulated import Blocking, Observer
from diffprof.gpu.assembly import LaunchedWait
from diffprof.gpu.cost import CostModel
from diffprof.gpu.memory_log import StorageNumbers
from diffprof.gpu.mode import current_mode
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.timeline_builder import Again, ModuleStack, TimelineBuilder, TimelineMark
from diffprof.judge.timeline import total_us
from diffprof.model.pipeline import module_names, with_role
from diffprof.model.recording import LinearRow, SchemeTiming, Timeline
from diffprof.targets.pipeline import Phase, PhaseTracker
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.repeated_steps import repeating

if TYPE_CHECKING:
    from diffprof.devices.simulated.device import SimulatedDevice

COMPILED_ROLES = ("denoiser", "vae")
"""What is compiled when a pipeline is: the parts that take the time."""

PRODUCTS = ("gemm", "conv")
"""Kernel families of the layers that can be quantized."""

Changes = Mapping[str, Callable[[float], float]]
"""Module -> its device time of a call as changed, from the time before, in microseconds."""


class SimulatedCall:
    """A pipeline call on an active simulated device."""

    def __init__(self, call: PipelineCall, device: SimulatedDevice) -> None:
        self.call = call
        self.device = device
        pipe = call.pipe
        roots = tuple(name for role in COMPILED_ROLES for name in with_role(pipe, role))
        with call.surroundings():
            self.models = {
                "eager": CostModel(device.gpu, current_mode()),
                "compiled": CostModel(device.gpu, current_mode(compiled=roots)),
            }
        self._builder = TimelineBuilder(self.models["eager"])
        self._timelines: dict[str, Timeline] = {}

    def inventory(self) -> Inventory:
        """Make the call."""
        return take_inventory(self.call.pipe, self.call.run, watching=self._watching)

    @contextmanager
    def _watching(self, tracker: PhaseTracker, layers: Recorder) -> Iterator[None]:
        pipe, builder = self.call.pipe, self._builder
        modules = ModuleStack(module_names(pipe))
        tracker.on_change = lambda phase: _begin(builder, phase)
        _begin(builder, tracker.current)
        teller = _Teller(builder, modules, layers)
        with (
            self.device.observed(teller, pipe),
            modules.following(),
            repeating(pipe, teller, tracker),
        ):
            yield

    def timeline(self, mode: str) -> Timeline:
        """The call as it would run, eager or with denoiser and VAE compiled."""
        if mode not in self._timelines:
            self._builder.model = self.models[mode]
            self._timelines[mode] = self._builder.finish()
        return self._timelines[mode]

    def timings(
        self, inventory: Inventory, schemes: Sequence[Scheme], modes: Sequence[str]
    ) -> dict[Key, list[SchemeTiming]]:
        """Predictions for every shape; also fills in the inventory's times, as of the first mode."""
        predictors = {mode: Predictor(self.device.gpu, self.models[mode].mode) for mode in modes}
        first = modes[0]
        inventory.call_us = sum(self.timeline(first).device_us)
        found = {}
        for key in inventory.counts:
            original = predictors[first].original_us(key, first == "compiled")
            inventory.spent_us[key] = inventory.counts[key] * original
            found[key] = [predictors[mode].timing(key, scheme, mode) for mode in modes for scheme in schemes]
        return found

    def total_us(self, mode: str, changes: Changes | None = None) -> float:
        """End-to-end time of the call, with the device time of some modules changed."""
        timeline = self.timeline(mode)
        if changes:
            timeline = changed_timeline(timeline, changes)
        return total_us(timeline)


class _Stretch(NamedTuple):
    """What the device did, and which layers were called."""

    work: Again
    calls: tuple[tuple[Layer, Key], ...]


class _Teller(Observer):
    """Tells the builder of a timeline what the device does."""

    def __init__(self, builder: TimelineBuilder, modules: ModuleStack, layers: Recorder) -> None:
        self.builder = builder
        self.modules = modules
        self.layers = layers
        self.reading: set[Hashable] = set()
        """Waits that give the CPU values which are known."""

    def op(self, signature: OpSignature) -> None:
        self.builder.op(signature, self.modules.path)

    def blocking(self, event: Blocking) -> None:
        key = event.kind, event.reads
        if event.reads:
            self.reading.add(key)
        self.builder.blocking(key, event.waits, self.modules.path)

    def mark(self, storages: StorageNumbers) -> tuple[int, TimelineMark]:
        return len(self.layers.calls), self.builder.mark(storages)

    def since(self, mark: tuple[int, TimelineMark]) -> _Stretch | None:
        calls, begin = mark
        work = self.builder.since(begin)
        return None if work is None else _Stretch(work, tuple(self.layers.calls[calls:]))

    def reads(self, told: _Stretch) -> bool:
        return any(
            item.key in self.reading if isinstance(item, LaunchedWait) else item.direction == "d2h"
            for item in told.work.items
        )

    def alike(self, one: _Stretch, other: _Stretch) -> bool:
        return one.calls == other.calls and one.work.alike(other.work)

    def again(self, told: _Stretch, storages: StorageNumbers) -> None:
        self.builder.again(told.work, storages)
        for layer, key in told.calls:
            self.layers.count(layer, key)


def _begin(builder: TimelineBuilder, phase: Phase) -> None:
    builder.phase(phase.name, phase.step, phase.part)


def changed_timeline(timeline: Timeline, changes: Changes) -> Timeline:
    """The timeline with the matrix products of some modules taking another time; never less than nothing."""
    wanted = {index: changes[name] for index, name in enumerate(timeline.modules) if name in changes}
    products = {index for index, kind in enumerate(timeline.kinds) if kind.family in PRODUCTS}
    device = list(timeline.device_us)
    for event, (module, kind) in enumerate(zip(timeline.module, timeline.kind, strict=True)):
        if module in wanted and kind in products:
            device[event] = max(wanted[module](device[event]), 0.0)
    return msgspec.structs.replace(timeline, device_us=tuple(device))


def changes_of(
    candidates: Sequence[Candidate], schemes: Mapping[int, str], rows: Sequence[LinearRow], mode: str
) -> dict[str, Callable[[float], float]]:
    """What quantizing some candidates does to their device times. schemes: candidate -> scheme."""
    return {
        candidates[index].path: _change(
            [timing for row in candidates[index].uses if (timing := rows[row].timing(scheme, mode))]
        )
        for index, scheme in schemes.items()
    }


def _change(timings: Sequence[SchemeTiming]) -> Callable[[float], float]:
    """Takes the gain of the timing whose original time is nearest: a module may see several shapes."""

    def change(before: float) -> float:
        nearest = min(timings, key=lambda t: abs((t.original_us or 0.0) - before), default=None)
        return before - ((nearest.gain_us or 0.0) if nearest else 0.0)

    return change
