"""Kernels of a simulated call: what the device tells, with the module that was running, into a timeline."""

from __future__ import annotations

import importlib.util
from collections.abc import Container, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from diffprof.analyzers.kernels.lines import LaunchLines, burst_rows, cast_rows
from diffprof.devices.simulated import Blocking, Observer
from diffprof.devices.simulated.held import host_bytes, storages_of, tensors_of, weights_on_device
from diffprof.devices.simulated.relaid import RerunCalls
from diffprof.devices.simulated.session import SESSION
from diffprof.devices.simulated.tensor import numbers
from diffprof.gpu.assembly import LaunchedWait
from diffprof.gpu.attention_table import LIBRARIES, attention_rows
from diffprof.gpu.cost import CostModel
from diffprof.gpu.memory_log import StorageNumbers
from diffprof.gpu.mode import Mode, current_mode
from diffprof.gpu.pricing import margin_of
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.specs import GpuSpec
from diffprof.gpu.timeline_builder import (
    Again,
    ModuleStack,
    TimelineBuilder,
    TimelineMark,
    gap_rows,
    kernel_rows,
)
from diffprof.judge.timeline import origin_shares, replay
from diffprof.model.pipeline import Pipeline, components, module_names
from diffprof.model.recording import Grade, LineRow, Timeline, Timing
from diffprof.targets.compiled import compiled_roots
from diffprof.targets.pipeline import Phase


@cache
def installed_attention() -> tuple[str, ...]:
    """Packages of attention kernels that are installed."""
    packages = {package for _, package in LIBRARIES.values()}
    return tuple(sorted(name for name in packages if importlib.util.find_spec(name) is not None))


class SimulatedKernels(Observer):
    """Builds the timeline of one call. Either the device's observer itself, or told by the one that is.

    key: names the sync row that a wait belongs to. alone: whether what lies on the device beside the
    pipeline, when the call begins, is none of its memory, and none of it when it goes.
    """

    def __init__(self, spec: GpuSpec, pipe: Pipeline, mode: Mode | None = None, alone: bool = False) -> None:
        self.builder = TimelineBuilder(CostModel(spec, mode or current_mode()))
        self.names = module_names(pipe)
        self.calls = RerunCalls(self.builder.call.items, compiled_roots(pipe))
        self.modules = ModuleStack(self.names, self.calls.noted)
        self.packages = installed_attention()
        self.waits: dict[Hashable, Blocking] = {}
        self.lines = LaunchLines() if not self.builder.model.mode.compiled else None
        self.alone = alone
        if not alone:
            self.free = self.builder.free  # type: ignore[method-assign]
        self._own: Container[int] = ()
        """Numbers of the storages that the pipeline had, where only they count."""
        self._first = 0
        """Number from which on storages are the call's."""
        self.weights = 0
        self.on_host = 0
        """Bytes of weights that were in host memory when the call began."""
        self.parts = components(pipe)

    @contextmanager
    def following(self) -> Iterator[SimulatedKernels]:
        """The call happens inside: modules are followed, memory starts from what is in use now."""
        self.weights = SESSION.allocated
        if self.alone:
            self._own = own = storages_of(self.parts)
            self._first, self.weights = numbers(1), sum(own.values())
        tensors = list(tensors_of(self.parts))
        self.builder.start_memory(self.weights, weights_on_device(tensors))
        self.on_host = host_bytes(tensor for _, tensor in tensors)
        with self.modules.following():
            yield self

    # --- what the device tells ------------------------------------------------------------------------

    def op(self, signature: OpSignature) -> None:
        line = None if self.lines is None else self.lines.here()
        self.builder.op(signature, self.modules.path, line)

    def blocking(self, event: Blocking) -> None:
        self.wait((str(event.kind), event.op, event.reads), event)

    def wait(self, key: Hashable, event: Blocking) -> None:
        """The CPU waits; to be told right after the operation that copies, as the device does."""
        self.waits.setdefault(key, event)
        self.builder.blocking(key, event.waits, self.modules.path, event.stream)

    def repeat(self, told: Again, storages: StorageNumbers, keys: Mapping[Any, Hashable]) -> None:
        """It comes again; keys: of its waits, by those that they had."""
        for before, key in keys.items():
            self.waits.setdefault(key, self.waits[before])
        if any(before != key for before, key in keys.items()):
            items = tuple(
                replace(i, key=keys[i.key]) if isinstance(i, LaunchedWait) else i for i in told.items
            )
            told = told._replace(items=items)
        self.builder.again(told, storages)

    def alloc(self, nbytes: int, number: int) -> None:
        self.builder.alloc(nbytes, number, self.modules.path)

    def free(self, nbytes: int, number: int) -> None:
        if number > self._first or number in self._own:
            self.builder.free(nbytes, number)

    def phase(self, phase: Phase) -> None:
        """For `PhaseTracker.on_change`."""
        self.builder.phase(phase.name, phase.step, phase.part, phase.block)

    # --- what comes again -----------------------------------------------------------------------------

    def mark(self, storages: StorageNumbers) -> TimelineMark:
        return self.builder.mark(storages)

    def since(self, mark: TimelineMark) -> Again | None:
        return self.builder.since(mark)

    def reads(self, told: Again) -> bool:
        return any(
            self.waits[item.key].reads if isinstance(item, LaunchedWait) else item.direction == "d2h"
            for item in told.items
        )

    def alike(self, one: Again, other: Again) -> bool:
        return one.alike(other)

    def again(self, told: Again, storages: StorageNumbers) -> None:
        self.builder.again(told, storages)

    # --- the result -----------------------------------------------------------------------------------

    def sections(self, rows: Mapping[Any, int] | None = None) -> dict[str, Any]:
        """Sections of the recording: timeline, kernels, gaps, memory, timing.

        rows: key of a wait -> index of its row in Recording.syncs.
        """
        timeline = self.builder.finish(rows)
        return {
            "timeline": timeline,
            "kernels": kernel_rows(timeline),
            **self._by_line(),
            "attention": attention_rows(self.builder.counted(), self.builder.model, self.packages),
            "gaps": gap_rows(timeline),
            "memory": self.builder.memory(self.weights, self.on_host),
            "timing": timing_of(timeline),
        }

    def _by_line(self) -> dict[str, tuple[LineRow, ...]]:
        if self.lines is None:
            return {}
        builder, model = self.builder, self.builder.model
        return {
            "casts": cast_rows(builder.counted_by_line(), model),
            "bursts": burst_rows(builder.with_lines(), model),
        }


def timing_of(timeline: Timeline) -> Timing:
    """The predicted wall time of the call."""
    run = replay(timeline)
    seconds = run.total_us / 1e6
    origin = origin_shares(timeline)
    return Timing(
        grade=Grade.SIMULATED,
        mode=timeline.mode,
        seconds=(seconds,),
        median=seconds,
        device_busy=run.device_busy_us / run.total_us if run.total_us else None,
        origin=origin,
        margin=margin_of(origin) if origin else None,
    )
