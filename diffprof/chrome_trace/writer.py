"""A timeline as a Kineto-style trace that TensorBoard, Perfetto and HolisticTraceAnalysis open.

One host thread with phases, modules, ops and runtime calls; one track a stream; arrows from launch to kernel.
Written event by event; `.gz` by the file's suffix.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, cast

import msgspec
import numpy as np

from diffprof import __version__
from diffprof.chrome_trace.events import MODULE_PREFIX, CallPart, phase_label
from diffprof.chrome_trace.op_lines import (
    FIRST_STREAM,
    HOST,
    ORIGIN_US,
    drawn,
    on_host,
    operation_lines,
    times_on_host,
)
from diffprof.judge.timeline import Replay, replay
from diffprof.model.errors import DiffprofError
from diffprof.model.recording import MemoryUse, PhaseSpan, SyncRow, Timeline
from diffprof.model.recording.whole_file import whole_file

EVENTS_AT_ONCE = 512
"""Events that are handed to the file together."""

NOWHERE = PhaseSpan(name="")

Event = dict[str, Any]


def write_trace(
    path: str | Path,
    timeline: Timeline,
    syncs: Sequence[SyncRow] = (),
    *,
    device_name: str,
    properties: Mapping[str, object] | None = None,
    metadata: Mapping[str, object] | None = None,
    memory: MemoryUse | None = None,
    run: Replay | None = None,
    member: bytes = b"",
) -> Path:
    """Write the timeline as it runs; returns the path.

    syncs: the rows that `timeline.sync` points to; their Python sites are written as frames. properties: of
    the device, in Kineto's names (totalGlobalMem, computeMajor, numSms, ...). metadata: kept in the file
    under `diffprof`. run: `replay(timeline)`, if it has been run already. member: `"key":value`, put into the
    file's object after the events.
    Raises DiffprofError when the file can't be written.
    """
    target = Path(path)
    timeline, run = drawn(timeline, run or replay(timeline))
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
        with whole_file(target) as raw, packed(raw, target.suffix == ".gz") as file:
            # By json, which escapes what is no UTF-8: a target's name may be that of a file.
            file.write(json.dumps(header)[:-1].encode() + b',\n"traceEvents": [\n')
            events = _annotations(timeline, run, device_name)
            counts = () if memory is None else _memory(timeline, run, memory)
            lines = itertools.chain(
                (encode(event).decode() for event in events),
                _module_lines(timeline, run),
                (encode(event).decode() for event in counts),
                operation_lines(timeline, run, syncs),
            )
            separator = ""
            while some := list(itertools.islice(lines, EVENTS_AT_ONCE)):
                file.write((separator + ",\n".join(some)).encode())
                separator = ",\n"
            file.write(b"\n]" + (b",\n" + member if member else b"") + b"}\n")
    except OSError as error:
        raise unwritten(target, error) from error
    return target


def unwritten(target: Path, error: OSError) -> DiffprofError:
    """The disk did not take a trace."""
    return DiffprofError(
        f"The trace could not be written to {target}: {error.strerror or error}.",
        "Free some space or choose another folder.",
    )


def packed(file: IO[bytes], compressed: bool) -> AbstractContextManager[IO[bytes]]:
    """Takes what is written into a file; compressed at level 1, five times faster than 9 for a file a quarter
    larger."""
    if not compressed:
        return nullcontext(file)
    return cast("IO[bytes]", gzip.GzipFile("", "wb", compresslevel=1, fileobj=file))


def _annotations(timeline: Timeline, run: Replay, device_name: str) -> Iterator[Event]:
    """Names, the call and its phases."""
    yield from _names(timeline, device_name)
    yield _span("user_annotation", "ProfilerStep#0", 0.0, max(run.total_us, 0.001))
    yield from _phases(timeline, run)


def _module_lines(timeline: Timeline, run: Replay) -> Iterator[str]:
    """The annotations of modules, encoded, outer ones first: there are tens of thousands of few names."""
    calls = list(_modules(timeline))
    # They come as they end, inner ones first; of those that take the same time, outer ones are written first.
    calls.reverse()
    names, firsts, lasts = zip(*calls, strict=True) if calls else ((), (), ())
    begins = times_on_host(np.array(run.host_start)[list(firsts)])
    took = times_on_host(np.array(run.host_end)[[last - 1 for last in lasts]]) - begins
    order = np.lexsort((-took, begins))
    heads: dict[str, str] = {}
    for place, begin, us in zip(order.tolist(), begins[order].tolist(), took[order].tolist(), strict=True):
        name = names[place]
        if (head := heads.get(name)) is None:
            named = msgspec.json.encode(MODULE_PREFIX + name).decode()
            track = f'"pid":{HOST},"tid":{HOST}'
            head = heads[name] = f'{{"ph":"X","cat":"user_annotation","name":{named},{track},"ts":'
        yield f'{head}{begin},"dur":{us},"args":{{}}}}'


def _names(timeline: Timeline, device_name: str) -> Iterator[Event]:
    def named(kind: str, pid: int, tid: int, key: str, value: object) -> Event:
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


def _span(category: str, name: str, start: float, end: float, args: Event | None = None) -> Event:
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": HOST,
        "tid": HOST,
        "ts": on_host(start),
        "dur": on_host(end) - on_host(start),
        "args": args or {},
    }


def _window(run: Replay, first: int, last: int) -> tuple[float, float]:
    return run.host_start[first], run.host_end[last - 1]


def _phases(timeline: Timeline, run: Replay) -> Iterator[Event]:
    for span in sorted(timeline.phases, key=lambda each: (each.first, -each.last)):
        if span.last > span.first:
            label = phase_label(CallPart(span.name, span.step, span.part, span.block))
            yield _span(
                "user_annotation", label, *_window(run, span.first, min(span.last, len(run.host_end)))
            )


def _modules(timeline: Timeline) -> Iterator[tuple[str, int, int]]:
    """Each call of a module, its first event and the one after its last, inside those of the modules around
    it; all end where a phase begins or ends. Two calls in a row of one module, with nothing of its parent's
    between them, are one."""
    cuts = {edge for span in timeline.phases for edge in (span.first, span.last)}
    paths = [called_modules(name) for name in timeline.modules]
    entered: list[tuple[str, int]] = []
    inside: tuple[str, ...] = ()
    shared_by: dict[tuple[int, int], int] = {}
    before = -1
    count = len(timeline.module)
    for index in range(count + 1):
        number = timeline.module[index] if index < count else -1
        path = paths[number] if 0 <= number < len(paths) else ()
        cut = index in cuts
        if path == inside and not cut:
            continue
        pair = before, number
        if not cut and pair not in shared_by:
            shared_by[pair] = _shared(inside, path)
        shared = 0 if cut else shared_by[pair]
        while len(entered) > shared:
            yield *entered.pop(), index
        entered.extend((name, index) for name in path[shared:])
        inside, before = path, number


def called_modules(path: str) -> tuple[str, ...]:
    """The modules that were called to get to this one, outermost first: `unet`, `unet.blocks.3`,
    `unet.blocks.3.norm`. Containers that are only indexed (`unet.blocks`) are not called."""
    names = path.split(".") if path else []
    return tuple(
        ".".join(names[:end])
        for end in range(1, len(names) + 1)
        if end == len(names) or not names[end].isdecimal()
    )


def _shared(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """How many modules two paths begin with alike."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count


def _shortly_before_the_end(run: Replay, span: PhaseSpan) -> float:
    start, end = _window(run, span.first, span.last)
    return end - min(0.5, (end - start) / 2)


def _memory(timeline: Timeline, run: Replay, memory: MemoryUse) -> Iterator[Event]:
    """Live bytes at the end of each step, the call's peak in the middle of the step that it is in, and the
    peak of each other phase at its end."""
    points: dict[float, int] = {}
    last_of: dict[int, PhaseSpan] = {}
    for span in timeline.phases:
        if span.step is not None and span.last > max(span.first, last_of.get(span.step, NOWHERE).last):
            last_of[span.step] = span
    for span, live in zip(last_of.values(), memory.by_step, strict=False):
        points[_shortly_before_the_end(run, span)] = live
        if span.step == memory.peak_step and memory.peak_bytes is not None:
            first = min(each.first for each in timeline.phases if each.step == span.step)
            points[sum(_window(run, first, span.last)) / 2] = memory.peak_bytes
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
            "ts": on_host(at),
            "args": {
                "Total Reserved": live,
                "Total Allocated": live,
                "Bytes": live - before,
                "Device Id": 0,
                "Device Type": 1,
                "Addr": 1,
            },
        }
        yield {"ph": "C", "name": "GPU memory", "pid": 0, "ts": on_host(at), "args": {"bytes": live}}
        before = live
