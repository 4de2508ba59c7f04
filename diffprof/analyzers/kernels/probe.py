"""Kernels of a real call: clean timed passes, then one under torch.profiler, read back from its trace."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from msgspec.structs import replace
from torch.profiler import ProfilerActivity, profile, record_function

from diffprof.analyzers.kernels.attention import AttentionCalls, measured_attention
from diffprof.analyzers.kernels.joining import SeenWait, join_waits
from diffprof.analyzers.kernels.timing import COMPILED_WARMUPS, Clock, clean_passes
from diffprof.chrome_trace.events import MODULE_PREFIX, phase_label
from diffprof.chrome_trace.events import CallPart as Label
from diffprof.devices import Device, cuda_runtime
from diffprof.devices.stopwatches import EventRunner
from diffprof.model.analyzer import Run
from diffprof.model.pipeline import Pipeline, components, module_names, replaced
from diffprof.model.progress import Progress
from diffprof.model.recording import BlockRow, Grade, MemoryUse, SyncRow, Timing, Unseen
from diffprof.targets.compiled import compiled_modules
from diffprof.targets.pipeline import Phase, PhaseTracker

if TYPE_CHECKING:  # no simulated scan reads a trace
    from diffprof.chrome_trace.phases import Phases
    from diffprof.chrome_trace.sections import Sections

TRACE_FILE = "trace.json"


class WatchedRun(Run, Protocol):
    """A scan with what its watched call left for the profiled one."""

    trace_folder: Path | None
    seconds: dict[str, float]
    seen: tuple[SeenWait, ...]
    attention: AttentionCalls | None


PASSES = 3

MOST = 3
"""Times as many passes where they are far from each other."""

LIMIT_S = 60.0
"""Seconds of clean passes after which no further one is begun."""


def of_run(run: WatchedRun) -> None:
    """Of a scan on a real device, as the pipeline is: compiled parts run compiled. A simulated device has its
    kernels from the watched call."""
    if run.device.gpu is not None:
        return
    parts = measure(
        run.call.run,
        run.call.pipe,
        run.device,
        folder=run.trace_folder,
        warmups=warmups_of(run.call.pipe, run.seconds["scan"]),
        progress=run.progress,
        rows=run.sections.get("syncs") or (),
        seen=run.seen,
    )
    for lap, sections in zip(("timing", "profile"), parts, strict=False):
        run.add(sections, lap)
    if run.attention is not None:
        run.progress.stage("timing attention")
        runner = EventRunner(run.device.index)
        rows = measured_attention(run.attention.counts, run.device.torch_device, runner)
        run.add({"attention": rows}, "attention")


def measure(
    call: Callable[[], object],
    pipe: Pipeline,
    device: Device,
    *,
    folder: Path | None = None,
    passes: int = PASSES,
    warmups: int = 1,
    clock: Clock | None = None,
    progress: Progress | None = None,
    rows: Sequence[SyncRow] = (),
    seen: Sequence[SeenWait] = (),
) -> Iterator[dict[str, object]]:
    """Sections of the recording for one call on a real device, as they come: first the timing of clean
    passes, then kernels, gaps, timeline and memory of a profiled one.

    On the CPU the kernels are the CPU's operators, and there is no device to be idle. folder: keeps the
    profiler's trace, as `trace.json`; without one it is read and dropped. rows, seen: waits of the same call
    that were seen before, to be joined with the profiled ones. A profiler that fails leaves the timing, and
    a note of what is missing in `unseen`.
    """
    from diffprof.chrome_trace.reader import read_trace
    from diffprof.chrome_trace.sections import sections_of

    progress = progress or Progress()
    progress.stage("timing clean calls", total=warmups + passes)

    def counted() -> None:
        call()
        progress.step()

    timing = clean_passes(
        counted,
        device.synchronize,
        warmups=warmups,
        passes=passes,
        most=MOST * passes,
        limit_s=LIMIT_S,
        clock=clock or device.clock,
    )
    yield {"timing": timing}
    progress.stage("profiling one call")
    try:
        with ExitStack() as stack:
            place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diffprof-")))
            place.mkdir(parents=True, exist_ok=True)
            file = place / TRACE_FILE
            profiled_call(call, pipe, device, file)
            progress.stage("reading the profiler's trace (MB)")
            found = sections_of(read_trace(file))
    except Exception as error:
        # The call itself has just run without the profiler.
        why = (
            f"the profiler failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        yield {"unseen": (Unseen(what="time per kernel, idle time, what-if", why=why.rstrip(": ")),)}
        return
    yield _profiled(found, timing, pipe, device, rows, seen)


def _blocks(phases: Phases) -> tuple[BlockRow, ...]:
    """How long each block ran, of a pipeline that is made of them, in the order in which they come first."""
    spent: dict[str, float] = {}
    for start, end, phase in phases.spans:
        if phase.block is not None:
            spent[phase.block] = spent.get(phase.block, 0.0) + end - start
    return tuple(BlockRow(name=name, elapsed_ms=us / 1e3) for name, us in spent.items())


def warmups_of(pipe: Pipeline, watched_s: float) -> int:
    """Calls to make before those that are timed. watched_s: seconds of the call that was watched just before,
    with everything uncompiled: it warms up no compiled code."""
    if any(True for _ in compiled_modules(pipe)):
        return COMPILED_WARMUPS
    return 0 if watched_s > LIMIT_S else 1


def _profiled(
    found: Sections,
    timing: Timing,
    pipe: Pipeline,
    device: Device,
    rows: Sequence[SyncRow],
    seen: Sequence[SeenWait],
) -> dict[str, object]:
    from diffprof.chrome_trace.sections import EVERYTHING_ON_THE_GPU

    busy = found.timing.device_busy if found.timing else None
    sections: dict[str, object] = {
        "timing": replace(timing, mode=found.mode, device_busy=busy),
        "kernels": found.kernels,
        "memory": _with_known_memory(found.memory, pipe, device),
    }
    if found.device is not None:
        joined = join_waits(rows, seen, found)
        sections |= {"syncs": joined.syncs, "timeline": joined.timeline, "gaps": joined.gaps}
    elif device.kind == "cpu":
        sections["blocks"] = _blocks(found.phases) or None
    else:
        sections["unseen"] = tuple(each for each in found.unseen if each.what == EVERYTHING_ON_THE_GPU)
    return sections


def profiled_call(call: Callable[[], object], pipe: Pipeline, device: Device, file: Path) -> None:
    """One call under the profiler, with phases and modules annotated, exported to a Kineto trace.

    Stacks stay off: 84 % of a trace with them are Python frames, and they can drop annotations
    (github.com/pytorch/pytorch/issues/174555).
    """
    runtime = cuda_runtime.RUNTIME
    activities = runtime.activities() if device.kind == "cuda" else (ProfilerActivity.CPU,)
    if device.allocator is not None:
        device.allocator.reset_peak()
    tracker = PhaseTracker()
    with (
        profile(activities=activities, record_shapes=True, profile_memory=True, acc_events=True) as profiler,
        annotated_phases(tracker),
        tracker.watching(pipe),
        annotated_modules(module_names(pipe)),
    ):
        call()
        device.synchronize()
    runtime.export_trace(profiler, file)


@contextmanager
def annotated_phases(tracker: PhaseTracker) -> Iterator[None]:
    """Every phase becomes an annotation of the trace, from its beginning to the next one's; the one that the
    tracker stands in begins at once."""
    current: list[record_function] = []

    def change(phase: Phase) -> None:
        close()
        label = record_function(phase_label(Label(phase.name, phase.step, phase.part, phase.block)))
        label.__enter__()
        current.append(label)

    def close() -> None:
        while current:
            current.pop().__exit__(None, None, None)

    before = tracker.on_change
    tracker.on_change = change
    change(tracker.current)
    try:
        yield
    finally:
        tracker.on_change = before
        close()


@contextmanager
def annotated_modules(names: Mapping[int, str]) -> Iterator[None]:
    """Every module call becomes an annotation with the module's path; nothing is left after it.

    `Module.__call__` itself is wrapped: global hooks would take every module off its fast path and compiled
    ones out of their compiled code. names: id(module) -> path.
    """
    call = torch.nn.Module.__call__

    def annotated(module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        if torch.compiler.is_compiling():
            return call(module, *args, **kwargs)
        path = names.get(id(module))
        if path is None:
            return call(module, *args, **kwargs)
        with record_function(MODULE_PREFIX + path):
            return call(module, *args, **kwargs)

    with replaced(torch.nn.Module, "__call__", annotated):
        yield


def _with_known_memory(memory: MemoryUse | None, pipe: Pipeline, device: Device) -> MemoryUse | None:
    """The trace's memory with what is known better: on CUDA the allocator's peak and capacity; on the CPU,
    where the trace counts from the profiler's start, the weights that were there before."""
    weights = sum(parameter_bytes(pipe).values())
    if device.allocator is not None:
        return replace(
            memory or MemoryUse(grade=Grade.MEASURED),
            weights_bytes=weights or None,
            peak_bytes=device.allocator.peak_bytes(),
            capacity_bytes=device.allocator.capacity_bytes(),
        )
    if memory is None:
        return None
    return replace(
        memory,
        weights_bytes=weights or None,
        peak_bytes=None if memory.peak_bytes is None else memory.peak_bytes + weights,
        by_phase={name: live + weights for name, live in memory.by_phase.items()},
        by_step=tuple(live + weights for live in memory.by_step),
    )


def parameter_bytes(pipe: Pipeline) -> dict[int, int]:
    """id -> bytes of every distinct parameter and buffer of the pipeline."""
    found: dict[int, int] = {}
    for part in components(pipe).values():
        if isinstance(part, torch.nn.Module):
            for tensor in (*part.parameters(), *part.buffers()):
                found[id(tensor)] = tensor.numel() * tensor.element_size()
    return found
