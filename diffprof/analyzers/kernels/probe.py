"""Kernels of a real call: clean timed passes, then one under torch.profiler, read back from its trace."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from msgspec.structs import replace
from torch.profiler import ProfilerActivity, profile, record_function

from diffprof.analyzers.kernels.timing import Clock, clean_passes, synchronizer
from diffprof.chrome_trace.events import MODULE_PREFIX, phase_label
from diffprof.chrome_trace.events import Phase as Label
from diffprof.chrome_trace.reader import read_trace
from diffprof.chrome_trace.sections import sections_of
from diffprof.pipeline import Phase, PhaseTracker, module_names
from diffprof.recording import Grade, MemoryUse

TRACE_FILE = "trace.json"


def measure(
    call: Callable[[], object],
    pipe: Any,
    device: torch.device,
    *,
    folder: Path | None = None,
    passes: int = 3,
    clock: Clock = time.perf_counter,
) -> dict[str, Any]:
    """Sections of the recording for one call on a real device: timing, kernels, gaps, timeline, memory.

    On the CPU the kernels are the CPU's operators, and there is no device to be idle. folder: keeps the
    trace there (`trace.json`, named in `trace_file`); without one it is read and dropped.
    """
    synchronize = synchronizer(device)
    timing = clean_passes(call, synchronize, passes=passes, clock=clock)
    with ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diffprof-")))
        place.mkdir(parents=True, exist_ok=True)
        file = place / TRACE_FILE
        profiled_call(call, pipe, device, file)
        found = sections_of(read_trace(file))
    busy = found.timing.device_busy if found.timing else None
    sections: dict[str, Any] = {
        "timing": replace(timing, device_busy=busy),
        "kernels": found.kernels,
        "memory": _with_device_memory(found.memory, pipe, device),
    }
    if found.on_device:
        sections |= {"timeline": found.timeline, "gaps": found.gaps}
    if folder is not None:
        sections["trace_file"] = TRACE_FILE
    return sections


def profiled_call(call: Callable[[], object], pipe: Any, device: torch.device, file: Path) -> None:
    """One call under the profiler, with phases and modules annotated, exported to a Kineto trace.

    Stacks stay off: 84 % of a trace with them are Python frames, and they can drop annotations
    (github.com/pytorch/pytorch/issues/174555).
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.reset_peak_memory_stats(device)
    tracker = PhaseTracker()
    with (
        profile(activities=activities, record_shapes=True, profile_memory=True, acc_events=True) as profiler,
        annotated_phases(tracker),
        tracker.watching(pipe),
        annotated_modules(module_names(pipe)),
    ):
        call()
        synchronizer(device)()
    profiler.export_chrome_trace(str(file))


@contextmanager
def annotated_phases(tracker: PhaseTracker) -> Iterator[None]:
    """Every phase becomes an annotation of the trace, from its beginning to the next one's."""
    current: list[record_function] = []

    def change(phase: Phase) -> None:
        close()
        label = record_function(phase_label(Label(phase.name, phase.step, phase.part)))
        label.__enter__()
        current.append(label)

    def close() -> None:
        while current:
            current.pop().__exit__(None, None, None)

    before = tracker.on_change
    tracker.on_change = change
    try:
        yield
    finally:
        tracker.on_change = before
        close()


@contextmanager
def annotated_modules(names: Mapping[int, str]) -> Iterator[None]:
    """Every module call becomes an annotation with the module's path; no hook is left after it."""
    from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

    opened: list[record_function | None] = []

    def before(module: Any, args: Any) -> None:
        path = names.get(id(module))
        label = record_function(MODULE_PREFIX + path) if path is not None else None
        if label is not None:
            label.__enter__()
        opened.append(label)

    def after(module: Any, args: Any, output: Any) -> None:
        label = opened.pop() if opened else None
        if label is not None:
            label.__exit__(None, None, None)

    hooks = (
        register_module_forward_pre_hook(before),
        register_module_forward_hook(after, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        while opened:
            label = opened.pop()
            if label is not None:
                label.__exit__(None, None, None)


def _with_device_memory(memory: MemoryUse | None, pipe: Any, device: torch.device) -> MemoryUse | None:
    """The trace's memory with what CUDA's allocator knows better: peak and capacity."""
    weights = sum(parameter_bytes(pipe).values())
    found = memory or MemoryUse(grade=Grade.MEASURED)
    found = replace(found, weights_bytes=weights or None)
    if device.type != "cuda":
        return found if memory is not None else None
    return replace(
        found,
        peak_bytes=torch.cuda.max_memory_allocated(device),
        capacity_bytes=torch.cuda.get_device_properties(device).total_memory,
    )


def parameter_bytes(pipe: Any) -> dict[int, int]:
    """id -> bytes of every distinct parameter and buffer of the pipeline."""
    from diffprof.pipeline import components

    found: dict[int, int] = {}
    for part in components(pipe).values():
        if isinstance(part, torch.nn.Module):
            for tensor in (*part.parameters(), *part.buffers()):
                found[id(tensor)] = tensor.numel() * tensor.element_size()
    return found
