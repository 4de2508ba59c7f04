"""A timeline as a Kineto-style trace that TensorBoard, Perfetto and HolisticTraceAnalysis open.

One host thread with phases, modules, ops and runtime calls; one lane a stream; arrows from launch to kernel.
Written event by event; `.gz` by the file's suffix.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from diffprof import __version__
from diffprof.chrome_trace.events import MODULE_PREFIX, Phase, phase_label
from diffprof.chrome_trace.kernel_rows import DTYPES
from diffprof.errors import DiffprofError
from diffprof.recording import KernelKind, MemoryUse, PhaseSpan, SyncRow, Timeline
from diffprof.timeline import Replay, replay

HOST = 1000
"""pid and tid of the host's lane."""

FIRST_STREAM = 7
"""Number that CUPTI gives the default stream."""

CALL_US = 1.0
"""Length drawn for a launching call, at most half of its event's host time."""

ORIGIN_US = 1_000_000
"""Where the call begins on the trace's clock; some readers drop events at 0."""

_COPY_KINDS = {
    "device-to-host": "Memcpy DtoH (Device -> Pageable)",
    "value-read": "Memcpy DtoH (Device -> Pageable)",
    "tensor-from-device-scalars": "Memcpy DtoH (Device -> Pageable)",
    "host-index": "Memcpy DtoH (Device -> Pageable)",
    "host-to-device": "Memcpy HtoD (Pageable -> Device)",
    "staged-copy": "Memcpy HtoD (Pageable -> Device)",
}

NOWHERE = PhaseSpan(name="")

Event = dict[str, Any]


def write_trace(
    path: str | Path,
    timeline: Timeline,
    syncs: Sequence[SyncRow] = (),
    *,
    device_name: str,
    properties: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    memory: MemoryUse | None = None,
    run: Replay | None = None,
) -> Path:
    """Write the timeline as it runs; returns the path.

    syncs: the rows that `timeline.sync` points to; their Python sites are written as frames. properties: of
    the device, in Kineto's names (totalGlobalMem, computeMajor, numSms, ...). metadata: kept in the file
    under `diffprof`. run: `replay(timeline)`, if it has been run already.
    Raises DiffprofError when the file can't be written.
    """
    target = Path(path)
    part = target.with_name(target.name + ".part")
    run = run or replay(timeline)
    header = {
        "schemaVersion": 1,
        "diffprof": {
            "version": __version__,
            "grade": str(timeline.grade),
            "mode": timeline.mode,
            **(metadata or {}),
        },
        "deviceProperties": [{"id": 0, "name": device_name, **(properties or {})}],
        "distributedInfo": {"backend": "", "rank": 0, "world_size": 1},
        "displayTimeUnit": "ms",
        "baseTimeNanoseconds": 0,
        "traceName": target.name,
    }
    encode = msgspec.json.Encoder().encode
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _open(part, compressed=target.suffix == ".gz") as file:
            file.write(encode(header)[:-1] + b',\n"traceEvents": [\n')
            separator = b""
            for event in _events(timeline, run, syncs, device_name, memory):
                file.write(separator + encode(event))
                separator = b",\n"
            file.write(b"\n]}\n")
        part.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise DiffprofError(
            f"The trace could not be written to {target}: {error.strerror or error}.",
            "Free some space or choose another folder.",
        ) from error
    return target


def _open(path: Path, *, compressed: bool) -> IO[bytes]:
    if compressed:
        # Level 1: five times faster than 9 for a file a quarter larger.
        return cast("IO[bytes]", gzip.open(path, "wb", compresslevel=1))
    return path.open("wb")


def _events(
    timeline: Timeline, run: Replay, syncs: Sequence[SyncRow], device_name: str, memory: MemoryUse | None
) -> Iterator[Event]:
    yield from _names(timeline, device_name)
    end = max(run.total_us, 0.001)
    yield _span("user_annotation", "ProfilerStep#0", 0.0, end)
    yield from _phases(timeline, run)
    yield from _modules(timeline, run)
    for index in range(len(timeline.host_us)):
        yield from _event(timeline, run, syncs, index)
    if memory is not None:
        yield from _memory(timeline, run, memory)


def _names(timeline: Timeline, device_name: str) -> Iterator[Event]:
    def named(kind: str, pid: int, tid: int, key: str, value: Any) -> Event:
        return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "ts": ORIGIN_US, "args": {key: value}}

    yield named("process_name", HOST, 0, "name", "python")
    yield named("process_labels", HOST, 0, "labels", "CPU")
    yield named("process_sort_index", HOST, 0, "sort_index", 0)
    yield named("thread_name", HOST, HOST, "name", "host")
    yield named("process_name", 0, 0, "name", device_name)
    yield named("process_labels", 0, 0, "labels", "GPU 0")
    yield named("process_sort_index", 0, 0, "sort_index", 5_000_000)
    for stream in sorted(set(timeline.stream)):
        if stream >= 0:
            yield named("thread_name", 0, FIRST_STREAM + stream, "name", f"stream {FIRST_STREAM + stream}")


def _at(us: float) -> float:
    """Host times in 64ths of a microsecond: sums of start and length are exact, so that neighbours touch and
    children end inside their parents whatever a reader adds up."""
    return ORIGIN_US + round(us * 64) / 64


def _whole(us: float) -> int:
    """Device times in whole microseconds, each edge to the nearest, so that neighbours still touch.

    HolisticTraceAnalysis cuts starts up and ends down to microseconds, which would open a gap between any two
    kernels that follow each other.
    """
    return round(ORIGIN_US + us)


def _span(category: str, name: str, start: float, end: float, args: Event | None = None) -> Event:
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": HOST,
        "tid": HOST,
        "ts": _at(start),
        "dur": _at(end) - _at(start),
        "args": args or {},
    }


def _window(run: Replay, first: int, last: int) -> tuple[float, float]:
    return run.host_start[first], run.host_end[last - 1]


def _phases(timeline: Timeline, run: Replay) -> Iterator[Event]:
    for span in sorted(timeline.phases, key=lambda each: (each.first, -each.last)):
        if span.last > span.first:
            label = phase_label(Phase(span.name, span.step, span.part))
            yield _span(
                "user_annotation", label, *_window(run, span.first, min(span.last, len(run.host_end)))
            )


def _modules(timeline: Timeline, run: Replay) -> Iterator[Event]:
    """One annotation for each run of events of one module, cut where a phase begins or ends."""
    cuts = {edge for span in timeline.phases for edge in (span.first, span.last)}
    first = 0
    count = len(timeline.module)
    for index in range(1, count + 1):
        if index < count and timeline.module[index] == timeline.module[first] and index not in cuts:
            continue
        number = timeline.module[first]
        name = timeline.modules[number] if 0 <= number < len(timeline.modules) else ""
        if name:
            yield _span("user_annotation", MODULE_PREFIX + name, *_window(run, first, index))
        first = index


def _event(timeline: Timeline, run: Replay, syncs: Sequence[SyncRow], index: int) -> Iterator[Event]:
    kind = timeline.kinds[timeline.kind[index]] if timeline.kind[index] >= 0 else None
    row = timeline.sync[index]
    sync = syncs[row] if 0 <= row < len(syncs) else None
    launches = timeline.device_us[index] > 0.0
    blocks = run.wait_start[index] >= 0.0
    if kind is None and not blocks:
        return
    start, end = run.host_start[index], run.host_end[index]
    issued = run.wait_start[index] if blocks else end
    begun = issued - min(CALL_US, 0.5 * (issued - start))
    # Never equal: readers tell older traces, which repeat the correlation id as External id, by that.
    external = index + 1
    correlation = len(timeline.host_us) + 1 + 2 * index
    if sync is not None:
        yield from _frames(sync, start, end)
    args = {"External id": external, **_shapes(kind)} if kind else {"External id": external}
    name = kind.op if kind and kind.op else sync.op if sync else "synchronize"
    yield _span("cpu_op", name, start, end, args)
    stream = FIRST_STREAM + max(timeline.stream[index], 0)
    if launches and kind is not None:
        work, category, call = _work(kind, sync)
        yield _span(
            "cuda_runtime",
            call,
            begun,
            issued,
            {"External id": external, "cbid": 211, "correlation": correlation},
        )
        yield {
            "ph": "X",
            "cat": category,
            "name": work,
            "pid": 0,
            "tid": stream,
            "ts": _whole(run.device_start[index]),
            "dur": _whole(run.device_end[index]) - _whole(run.device_start[index]),
            "args": {
                "External id": external,
                "correlation": correlation,
                "device": 0,
                "context": 1,
                "stream": stream,
                **_extent(kind, category),
            },
        }
        arrow = {"cat": "ac2g", "name": "ac2g", "id": correlation}
        yield {"ph": "s", **arrow, "pid": HOST, "tid": HOST, "ts": _at(begun)}
        yield {"ph": "f", "bp": "e", **arrow, "pid": 0, "tid": stream, "ts": _whole(run.device_start[index])}
    if blocks:
        call = "cudaDeviceSynchronize" if timeline.stream[index] < 0 else "cudaStreamSynchronize"
        if not launches:
            issued = begun
        args = {"External id": external, "cbid": 131, "correlation": correlation + 1}
        yield _span("cuda_runtime", call, issued, end, args)


def _work(kind: KernelKind, sync: SyncRow | None) -> tuple[str, str, str]:
    """(name, category, runtime call) of a piece of device work."""
    if kind.name.startswith("Memcpy"):
        return kind.name, "gpu_memcpy", "cudaMemcpyAsync"
    if kind.family == "copy" and sync is not None and sync.kind in _COPY_KINDS:
        return _COPY_KINDS[sync.kind], "gpu_memcpy", "cudaMemcpyAsync"
    if kind.family == "memset":
        name = kind.name if kind.name.startswith("Memset") else "Memset (Device)"
        return name, "gpu_memset", "cudaMemsetAsync"
    return kind.name, "kernel", "cudaLaunchKernel"


def _extent(kind: KernelKind, category: str) -> Event:
    if category == "kernel":
        return {"flops": kind.flops} if kind.flops is not None else {}
    return {"bytes": int(kind.bytes)} if kind.bytes is not None else {}


_DTYPE_NAMES = {python: name for name, python in reversed(DTYPES.items())}


def _shapes(kind: KernelKind) -> Event:
    """Shapes as Kineto writes them; nothing when the text is no list of shapes."""
    shapes: list[list[int]] = []
    for each in kind.shape.split(", ") if kind.shape else ():
        sizes = each.split("x")
        if not all(size.isdigit() for size in sizes):
            return {}
        shapes.append([int(size) for size in sizes])
    if not shapes:
        return {}
    dtype = _DTYPE_NAMES.get(kind.dtype, kind.dtype)
    return {"Input Dims": shapes, "Input type": [dtype] * len(shapes)}


def _frames(sync: SyncRow, start: float, end: float) -> Iterator[Event]:
    site = sync.site
    if not site.line:
        return
    for frame in reversed(sync.site.chain):
        yield _span("python_function", f"{frame.file}({frame.line}): {frame.function}", start, end)
    yield _span("python_function", f"{site.file}({site.line}): {site.function}", start, end)


def _shortly_before_the_end(run: Replay, span: PhaseSpan) -> float:
    start, end = _window(run, span.first, span.last)
    return end - min(0.5, (end - start) / 2)


def _memory(timeline: Timeline, run: Replay, memory: MemoryUse) -> Iterator[Event]:
    """Live bytes at the end of each step, and the peak of each phase at its end."""
    points: dict[float, int] = {}
    last_of: dict[int, PhaseSpan] = {}
    for span in timeline.phases:
        if span.step is not None and span.last > max(span.first, last_of.get(span.step, NOWHERE).last):
            last_of[span.step] = span
    for span, live in zip(last_of.values(), memory.by_step, strict=False):
        points[_shortly_before_the_end(run, span)] = live
    for span in timeline.phases:
        if span.step is None and span.last > span.first and span.name in memory.by_phase:
            points[_shortly_before_the_end(run, span)] = memory.by_phase[span.name]
    before = memory.weights_bytes or 0
    for at, live in sorted({0.0: before, **points}.items()):
        yield {
            "ph": "i",
            "cat": "cpu_instant_event",
            "s": "t",
            "name": "[memory]",
            "pid": HOST,
            "tid": HOST,
            "ts": _at(at),
            "args": {
                "Total Reserved": live,
                "Total Allocated": live,
                "Bytes": live - before,
                "Device Id": 0,
                "Device Type": 1,
                "Addr": 1,
            },
        }
        yield {"ph": "C", "name": "GPU memory", "pid": 0, "ts": _at(at), "args": {"bytes": live}}
        before = live
