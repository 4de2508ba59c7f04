"""From a trace to the sections of a recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffprof.chrome_trace import intervals
from diffprof.chrome_trace.events import Trace, captures_graph
from diffprof.chrome_trace.idle import device_busy, devices, find_gaps
from diffprof.chrome_trace.kernel_rows import find_kinds, host_rows, kernel_rows
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.phases import Phases, find_phases
from diffprof.chrome_trace.trace_timeline import make_timeline
from diffprof.chrome_trace.waits import WaitEvent, Waits, find_waits, wait_events
from diffprof.model.recording import GapRow, Grade, KernelRow, MemoryUse, SyncRow, Timeline, Timing, Unseen

LINKED_ENOUGH = 0.5
"""Share of device work with a known launch below which idle time has no causes and nothing is replayed."""

EVERYTHING_ON_THE_GPU = "everything on the GPU"

_COMPILED = re.compile(r"^triton_|^Torch-Compiled Region|^## Call CompiledFxGraph|CompiledFunction")

_WARM_UP = (
    (
        "compiled",
        re.compile(
            r"\(dynamo_timed\)$|torch/_dynamo/convert_frame\.py\(\d+\): _compile"
            r"|torch/_inductor/(?:compile_fx|async_compile)\.py\("
        ),
    ),
    (
        "tuned kernels",
        re.compile(
            r"benchmark_all_configs|autotune_to_one_config|/autotuner\.py\(\d+\): _?bench"
            r"|testing\.py\(\d+\): do_bench|^(?:cudnnFind|miopenFind)"
        ),
    ),
)
"""What only a first call does, by names of ops, calls and Python frames."""

CAPTURED = "captured a CUDA graph"


def warm_up_of(trace: Trace) -> tuple[str, ...]:
    """What the trace holds that no later call does again, in words that follow "it"."""
    captured = any(captures_graph(trace.names[name]) for name in set(trace.calls.name.tolist()))
    found = [CAPTURED] if captured else []
    found += [words for words, pattern in _WARM_UP if any(pattern.search(name) for name in trace.names)]
    return tuple(found)


@dataclass(frozen=True)
class Sections:
    """What a trace holds; None where it can't tell. Times are on the trace's clock, microseconds from its
    first event."""

    grade: Grade
    mode: str
    phases: Phases
    kernels: tuple[KernelRow, ...] | None = None
    gaps: tuple[GapRow, ...] | None = None
    syncs: tuple[SyncRow, ...] | None = None
    timeline: Timeline | None = None
    timing: Timing | None = None
    memory: MemoryUse | None = None
    unseen: tuple[Unseen, ...] = ()
    device: int | None = None
    """The one that works longest; None: there is no device work in the trace."""
    window_us: float | None = None
    busy_us: float | None = None
    waits: tuple[WaitEvent, ...] = ()
    """Every blocking call, in the order of the timeline's blocking events."""


def sections_of(trace: Trace) -> Sections:
    """Kernels, idle time, waits, a timeline and memory, each as far as the trace tells."""
    links = Links(trace)
    phases = find_phases(trace, links)
    grade = Grade.SIMULATED if trace.simulated else Grade.MEASURED
    mode = "compiled" if any(_COMPILED.search(name) for name in trace.names) else "eager"
    unseen = _limits(trace, links, phases)
    memory = _memory(trace, phases, grade)
    if not len(trace.work) or not trace.work.dur.any():
        return _without_device_time(trace, links, Sections(grade, mode, phases, memory=memory), unseen)
    waits = find_waits(trace, links, phases)
    kinds = find_kinds(trace, links)
    device, *others = devices(trace)
    if others:
        of = f"device {others[0]}" if len(others) == 1 else f"{len(others):,} other devices"
        unseen.append(
            Unseen(what=f"idle time of {of}", why=f"gaps are shown for the busiest device, {device}")
        )
    busy = device_busy(trace, device)
    low, high = window = _window(trace, phases, waits, busy)
    busy_us = intervals.total(busy)
    linked = links.linked_share >= LINKED_ENOUGH
    return Sections(
        grade=grade,
        mode=mode,
        phases=phases,
        kernels=kernel_rows(trace, links, phases, kinds),
        gaps=find_gaps(trace, links, phases, waits, kinds, device, window),
        syncs=waits.rows if len(trace.calls) else None,
        timeline=make_timeline(trace, links, phases, waits, kinds, grade=grade, mode=mode)
        if linked
        else None,
        timing=Timing(
            grade=grade,
            mode=mode,
            median=(high - low) / 1e6,
            device_busy=busy_us / (high - low) if high > low else None,
            warm_up=warm_up_of(trace),
        ),
        memory=memory,
        unseen=tuple(unseen),
        device=device,
        window_us=high - low,
        busy_us=busy_us,
        waits=wait_events(trace, links, phases, waits),
    )


def _window(trace: Trace, phases: Phases, waits: Waits, busy: np.ndarray) -> tuple[float, float]:
    """When the call begins and ends: that of its phases, its work, and its waits. A wait that returns after
    all recorded work is part of the call, as it is of the timeline; the profiler's own is not."""
    own = waits.blocking[waits.of_call[waits.blocking] >= 0]
    begins, ends = trace.calls.ts[own], waits.until[own]
    if phases.window:
        low, high = phases.window
        ends = ends[(begins >= low) & (begins < high)]
        begins = begins[:0]
    else:
        low, high = float(busy[0, 0]), float(busy[-1, 1])
    return float(min(low, busy[0, 0], *begins)), float(max(high, busy[-1, 1], *ends))


def _without_device_time(trace: Trace, links: Links, found: Sections, unseen: Sequence[Unseen]) -> Sections:
    """What is told by a trace with no work of a device, or with work of no length."""
    syncs = find_waits(trace, links, found.phases).rows if len(trace.calls) else None
    if len(trace.work):
        lost = Unseen(
            what="device time, idle time and what-if",
            why=f"none of the {len(trace.work):,} kernels and copies has a length in this trace",
        )
        device = int(trace.work.device[0])
        return replace(found, syncs=syncs, unseen=(lost, *unseen), device=device)
    # With a GPU, ops are no kernels: theirs come later in the file, and were not read.
    cut = trace.truncated and trace.meta.get("deviceProperties")
    on_host = len(trace.ops) and not len(trace.calls) and not cut
    rows = host_rows(trace, links, found.phases) if on_host else None
    return replace(found, kernels=rows, syncs=syncs, unseen=tuple(unseen))


def _limits(trace: Trace, links: Links, phases: Phases) -> list[Unseen]:
    """What the trace can't tell, and what would make it tell."""
    found = []

    def missing(what: str, why: str) -> None:
        found.append(Unseen(what=what, why=why))

    if trace.truncated:
        missing("the end of the trace", f"{trace.truncated}; what was read until there is below")
    if trace.damaged:
        missing(f"{trace.damaged:,} events", "they could not be decoded")
    if trace.lengthless:
        missing(f"the length of {trace.lengthless:,} events", "it is missing, negative or no number")
    if trace.unclosed:
        missing(f"{trace.unclosed:,} events", "they begin and never end")
    if not len(trace.work):
        if trace.truncated:
            why = "no GPU events in what was read of this trace, where they follow those of the CPU"
        elif len(trace.calls):
            why = "no GPU events in this trace, only runtime calls: record with ProfilerActivity.CUDA"
        else:
            why = "no GPU events in this trace: it was recorded on the CPU, or without ProfilerActivity.CUDA"
        missing(EVERYTHING_ON_THE_GPU, why)
        return found
    if not len(trace.calls):
        missing("waits, causes of idle time, what-if", "no CUDA or HIP runtime calls in this trace")
    elif links.linked_share < LINKED_ENOUGH:
        share = f"{links.linked_share:.0%}"
        missing(
            "causes of idle time, what-if",
            f"only {share} of the kernels carry the id of the call that launched them (`correlation`)",
        )
    elif links.linked_share < 1.0:
        lost = int((links.call_of_work < 0).sum())
        missing(f"the launches of {lost:,} kernels", "their runtime calls are not in the trace")
    if not len(trace.ops):
        missing("ops and shapes of kernels", "no `cpu_op` events: record with ProfilerActivity.CPU")
    if len(trace.frames) and not trace.simulated:
        missing(
            "exact lines",
            "the profiler stores the line where a function begins, not the one that was running",
        )
    elif not len(trace.frames) and not any(detail.stack for detail in trace.details):
        missing("Python lines of waits", "no Python stacks in this trace: record with `with_stack=True`")
    if phases.source is None or not phases.steps:
        missing(
            "denoising steps",
            "neither annotations nor Python frames of a diffusers pipeline tell where they begin",
        )
    return found


def _memory(trace: Trace, phases: Phases, grade: Grade) -> MemoryUse | None:
    """Memory by the allocator's events (`profile_memory=True`), of the device with the highest peak; of the
    host in a trace without a device, where it counts from the profiler's start."""
    memory = trace.memory
    here = memory.device >= 0 if len(trace.work) else np.ones(len(memory.device), dtype=bool)
    on_device = np.flatnonzero(here & (memory.allocated >= 0))
    if not len(on_device):
        return None
    busiest = memory.device[on_device[np.argmax(memory.allocated[on_device])]]
    rows = on_device[memory.device[on_device] == busiest]
    rows = rows[np.argsort(memory.ts[rows], kind="stable")]
    ts, allocated = memory.ts[rows], memory.allocated[rows]
    by_phase: dict[str, int] = {}
    for row, index in enumerate(phases.at(ts).tolist()):
        if index >= 0:
            name = phases.spans[index][2].name
            by_phase[name] = max(by_phase.get(name, 0), int(allocated[row]))
    by_step = []
    for _, end in phases.step_spans:
        at = int(np.searchsorted(ts, end, side="right")) - 1
        if at >= 0:
            by_step.append(int(allocated[at]))
    return MemoryUse(
        grade=grade,
        peak_bytes=int(allocated.max()),
        capacity_bytes=memory_of(trace, int(busiest)) if busiest >= 0 else None,
        by_phase=by_phase,
        by_step=tuple(by_step),
    )


def memory_of(trace: Trace, device: int) -> int | None:
    """Bytes of memory that a device has, or None."""
    found = device_property(trace, device, "totalGlobalMem")
    return found if isinstance(found, int) and 0 < found < 1 << 63 else None


def device_property(trace: Trace, device: int, name: str) -> object:
    """One of Kineto's `deviceProperties`, or None."""
    properties = trace.meta.get("deviceProperties")
    if not isinstance(properties, list):
        return None
    for each in properties:
        if isinstance(each, dict) and each.get("id") == device:
            return each.get(name)
    return None
