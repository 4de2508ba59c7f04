"""KRN: why the device idles while a call runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from diffprof.analyzers.kernels.findings import loop_finding, most_of, of_offloading, waiting_lines
from diffprof.analyzers.kernels.loop import LoopTimes, milliseconds
from diffprof.judge.pricing import blocked_us
from diffprof.judge.rules import NoEvidence, rule
from diffprof.judge.setup_costs import evidence
from diffprof.judge.timeline import Without, saved_us, total_us
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import Change, GapRow, Grade, Recording
from diffprof.model.units import place

IDLE_SHARE = 0.05
"""Share of the loop's time without device work from which it is worth a finding."""

BUBBLE_SHARE = 0.01
"""Share of the loop's time that its waits may cost."""

GAP_US = 100.0
"""Idle time at one place that the diffusers profiling guide (examples/profiling) calls unhealthy."""

LONG_CALL_US = 1000.0
"""A copy call that takes longer does not issue the copy: the CPU copies, or waits for the driver."""

COLD_SHARE = 0.2
"""Share of a trace that set-up takes in a first call; a call that was warmed up has next to none."""


_BETWEEN_GRAPHS = (
    "Run a larger batch: the models are replayed as CUDA graphs, and what is left is launched between them, "
    "as a scheduler's operations are."
)


@rule("KRN001", "launch-bound", needs=("timeline",))
def launch_bound(recording: Recording) -> Iterator[Finding]:
    """The device waits for launches: the host can't issue work fast enough.

    What it does:
        Looks for idle time of the device in the denoising loop that ends with a launch, while the host was
        busy issuing operations. Reported from 5 % of the loop's time. Names no line: all of a model's
        operations are launched alike; what many launches of one line cost is KRN015's.

    Why it is slow:
        An eager operation costs the host 10 to 50 us of Python, dispatch and driver time. Kernels that are
        shorter than that leave the device idle, and a faster GPU does not help.

    Example:
        pipe = StableDiffusionPipeline.from_pretrained(...).to("cuda")   # 512 px on a large GPU
        pipe(prompt)

    Use instead:
        pipe.unet.compile(mode="reduce-overhead", fullgraph=True)   # CUDA graphs: one launch a forward
        or a larger batch, so that each kernel lasts longer.

    Fix safety:
        Compiling changes the output within rounding. A larger batch changes what is computed.
    """
    timeline = recording.timeline
    assert timeline is not None
    loop = LoopTimes.of(recording)
    idle = loop.idle_us("launch")
    if timeline.graphs:
        idle = min(idle, _left_without_waits_us(loop))
    if not loop.length_us or idle < IDLE_SHARE * loop.length_us:
        return
    share = f"{idle / loop.length_us:.0%}"
    yield loop_finding(
        "KRN001",
        "launch-bound",
        loop,
        f"The device idles {share} of the {loop.name}, waiting for launches.",
        _BETWEEN_GRAPHS
        if timeline.graphs
        else f"Compile the {loop.model} with CUDA graphs, or run a larger batch.",
        **_saved_by_graphs(recording, loop, idle),
        fixes=() if timeline.graphs else ("compile",),
    )


def _left_without_waits_us(loop: LoopTimes) -> float:
    """What a host without cost would save where nothing waits: what follows a wait is KRN002's."""
    waits = Without(waits=loop.waiting_rows())
    return loop.saved_without_host_us() - (total_us(loop.timeline) - total_us(loop.timeline, waits))


def _saved_by_graphs(recording: Recording, loop: LoopTimes, idle_us: float) -> dict[str, Any]:
    """What compiling saves, where the call was costed compiled; else what a host without cost would."""
    compiled, timeline = evidence(recording, Change.COMPILED), loop.timeline
    if compiled.change is not None:
        return {"evidence": compiled, "cost_note": "What compiling with CUDA graphs saves, fusion included."}
    saved = idle_us if timeline.graphs else loop.at_most(loop.saved_without_host_us(), idle_us)
    return {
        "saves_ms": saved / 1e3,
        "cost_note": "What an infinitely fast host would save"
        + ("." if timeline.graphs else "; CUDA graphs come near it."),
    }


@rule("KRN002", "sync-bubble", needs=("timeline",))
def sync_bubble(recording: Recording) -> Iterator[Finding]:
    """After a wait of the host the device has nothing to do.

    What it does:
        Runs the timeline again without the waits of the denoising loop, all sites together, and names the
        lines that most of them come from; those of offloading are SYN010's. Reported where that saves 1 % of
        the loop, or 0.1 ms and a wait left the device idle for as long.

    Why it is slow:
        While the host waits it issues nothing, and the queue runs dry. How long it stays dry depends on how
        fast the host gets ahead again; a compiled step, launched at once, has to start from nothing.

    Example:
        if timestep > 0:          # a device tensor: the host waits, the device drains
            ...

    Use instead:
        timestep = int(t)         # read once before the loop, or keep the schedule on the host

    Fix safety:
        Reading the same value earlier or elsewhere does not change the output.
    """
    timeline = recording.timeline
    assert timeline is not None
    loop = LoopTimes.of(recording)
    apart = of_offloading(recording)
    rows = loop.waiting_rows() - apart
    waits = [event for event in loop.waits() if timeline.sync[event] not in apart]
    saved = saved_us(timeline, Without(waits=rows), loop.run.total_us)
    large = saved >= BUBBLE_SHARE * loop.length_us
    if not rows or not (large or min(saved, loop.longest_idle_us("sync")) >= GAP_US):
        return
    yield loop_finding(
        "KRN002",
        "sync-bubble",
        loop,
        f"While the CPU waits it issues nothing: without its waits the {loop.name} is "
        f"{milliseconds(saved)} shorter{waiting_lines(recording, waits)}.",
        f"Remove the waits in the {loop.name}.",
        severity=Severity.HIGH if large else Severity.LOW,
        count=len(waits),
        by_step=loop.by_step(waits),
        blocked_ms=blocked_us(recording, loop.run, rows) / 1e3,
        saves_ms=saved / 1e3,
        cost_note=f"All waits of the {loop.name} together; one of them alone may save nothing.",
        evidence=Evidence(syncs=tuple(sorted(row for row in rows if row >= 0))),
    )


@rule("KRN010", "python-between-steps", needs=("timeline",))
def python_between_steps(recording: Recording) -> Iterator[Finding]:
    """The device idles while Python runs between the operations of the loop.

    What it does:
        Adds up idle time of the device during host work that is no operation: progress bars, callbacks,
        walks over modules. Reported from 0.1 ms a step. Names the lines that most of it goes by in, where
        the trace was recorded with Python's frames.

    Why it is slow:
        Nothing is queued in the meantime. A progress bar that redraws, a callback that converts an image, an
        `any(...)` over all modules makes the step longer by the time it takes.

    Example:
        pipe(prompt, callback_on_step_end=preview)         # decodes and saves a picture in every step

    Use instead:
        pipe.set_progress_bar_config(disable=True)
        and a callback that does nothing in most steps.

    Fix safety:
        The output stays as it is.
    """
    timeline = recording.timeline
    assert timeline is not None
    loop = LoopTimes.of(recording)
    host_only = frozenset(loop.host_only())
    if timeline.grade is Grade.SIMULATED and not host_only:
        raise NoEvidence(
            "a simulated call has no clock for Python between operations: scan on --device cuda, or import a "
            "trace"
        )
    idle = loop.idle_us("python")
    if idle < GAP_US * max(1, loop.steps) or (not loop.steps and idle < IDLE_SHARE * loop.length_us):
        return
    where = _where(loop.gaps("python"))
    yield loop_finding(
        "KRN010",
        "python-between-steps",
        loop,
        f"The device idles for {milliseconds(idle)} while Python runs between operations{where}.",
        "Switch the progress bar off, and keep callbacks short."
        if loop.steps
        else "Take work that need not be done in between out of there, or let another thread do it.",
        saves_ms=loop.at_most(saved_us(timeline, Without(events=host_only), loop.run.total_us), idle) / 1e3,
        evidence=Evidence(events=tuple(sorted(host_only))),
    )


@rule("KRN013", "cold-call", needs=("timeline", "gaps"))
def cold_call(recording: Recording) -> Iterator[Finding]:
    """The profiled call is a first one: the device idles while the host sets up.

    What it does:
        Adds up idle time of the device, that before its first work too, in which the host stands in one
        runtime call or op for over a millisecond, or asks the driver for memory. Reported from 20 % of a
        measured trace, and always where a graph is captured, or code is compiled or tuned. Names ops and
        runtime calls, no line: a later call of the same code does not pay it.

    Why it is slow:
        The first call in a process makes the CUDA context, loads the code of every kernel when it is first
        launched, sets up cuDNN and cuBLAS, tunes, compiles, and fills the allocator's cache with
        `cudaMalloc`. Seconds go by that no later call pays, and they hide what does cost every call. The same
        holds of a call that captures a CUDA graph, compiles or tunes: what it runs, later calls replay.

    Example:
        with torch.profiler.profile() as prof:
            pipe(prompt)                                   # the first call of the process

    Use instead:
        pipe(prompt)                                       # warm up
        torch.cuda.synchronize()
        with torch.profiler.profile() as prof:
            pipe(prompt)

    Fix safety:
        Nothing is changed but what is looked at.
    """
    timeline, gaps = recording.timeline, recording.gaps
    assert timeline is not None
    assert gaps is not None
    if timeline.grade is not Grade.MEASURED:
        return
    cold = [gap for gap in gaps if gap.cause in SET_UP]
    idle, whole = _total_us(cold), _total_us(gaps) + sum(timeline.device_us)
    did = recording.timing.warm_up if recording.timing is not None else ()
    if idle < COLD_SHARE * whole and not did:
        return
    message = "This was a warm-up call: it " + " and ".join(did) + "." if did else "This was a first call."
    if idle >= COLD_SHARE * whole:
        message = (
            f"{message.removesuffix('.')}{';' if did else ':'} for {idle / whole:.0%} of the time the device "
            f"idles while the host sets things up{_longest(cold)}."
        )
    yield Finding(
        rule="KRN013",
        name="cold-call",
        kind="cold-call",
        message=message,
        grade=timeline.grade,
        severity=Severity.HIGH,
        once_ms=idle / 1e3,
        cost_note="A later call does not pay it: what this trace says of the rest may not hold for one.",
        advice="Call it once before the profiler starts, then record again.",
    )


@rule("KRN014", "host-work-between-kernels", needs=("timeline", "gaps"))
def host_work_between_kernels(recording: Recording) -> Iterator[Finding]:
    """The device idles while the host computes, waits for data, or stands in one call.

    What it does:
        Adds up idle time of the device during ops that compute on the CPU, data loading, and runtime calls
        or ops that take over a millisecond. Reported from 5 % of the measured loop. Names the ops, and the
        lines where the trace was recorded with Python's frames.

    Why it is slow:
        What the host computes itself it does not issue in the meantime. A noise tensor drawn on the CPU, an
        image that is resized between two calls, a loader that is not ahead: the device waits for each.

    Example:
        latents = torch.randn(shape).to("cuda")            # drawn on the CPU in every step

    Use instead:
        latents = torch.randn(shape, device="cuda")
        DataLoader(..., num_workers=4, prefetch_factor=2)

    Fix safety:
        Random numbers of another device are other numbers; a loader that works ahead gives the same data.
    """
    timeline = recording.timeline
    assert timeline is not None
    if timeline.grade is not Grade.MEASURED:
        return
    loop = LoopTimes.of(recording)
    gaps = loop.gaps("cpu-op", "data", *(() if _is_cold(recording) else SET_UP))
    gaps += [gap for gap in loop.gaps("copy") if gap.duration_us > LONG_CALL_US * gap.count]
    idle = _total_us(gaps)
    if not loop.length_us or idle < IDLE_SHARE * loop.length_us:
        return
    yield loop_finding(
        "KRN014",
        "host-work-between-kernels",
        loop,
        f"The device idles {idle / loop.length_us:.0%} of the {loop.name} while the host does other work"
        f"{_longest(gaps)}{_where(gaps)}.",
        "Compute on the device, do it once before the loop, or let another thread work ahead.",
        count=sum(gap.count for gap in gaps),
        by_step=[sum(gap.count for gap in gaps if gap.step == step) for step in range(loop.steps)],
        outside=Severity.MEDIUM,
        saves_ms=idle / 1e3,
        cost_note="What is saved if none of it holds up the device.",
    )


def _where(gaps: Iterable[GapRow]) -> str:
    """`, most of it in diffusers/models/unet.py:103 (80%)`, where the trace has Python frames."""
    spent: Counter[str] = Counter()
    for gap in gaps:
        if gap.site is not None and gap.site.file:
            spent[place(gap.site)] += round(gap.duration_us)
    return most_of(+spent, "it in")


SET_UP = ("stall", "allocation")
"""Causes of idle time of which a warmed-up call has next to none."""


def _is_cold(recording: Recording) -> bool:
    return any(True for _ in cold_call(recording))


def _total_us(gaps: Iterable[GapRow]) -> float:
    return sum(gap.duration_us for gap in gaps)


def _longest(gaps: Iterable[GapRow], most: int = 3) -> str:
    """` (aten::to 30,429 ms, data loading 12 ms)`: where most of it goes, as far as that is known."""
    spent: Counter[str] = Counter()
    for gap in gaps:
        name = "data loading" if gap.cause == "data" else gap.during
        if name:
            spent[name] += round(gap.duration_us)
    words = [
        f"{name} {us / 1e3:,.3g} ms" if us < 1e6 else f"{name} {us / 1e3:,.0f} ms"
        for name, us in spent.most_common(most)
    ]
    return f" ({', '.join(words)})" if words else ""
