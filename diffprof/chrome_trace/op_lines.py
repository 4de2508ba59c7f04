"""The operations of a timeline as lines of a Kineto trace: op, runtime calls, device work, arrows, frames.

A full-size call has thousands of events of a few hundred forms, up to seven lines each, so what the lines of
one form have in common is encoded once and the rest is put in as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from diffprof.chrome_trace.kernel_rows import DTYPES
from diffprof.judge.timeline import Replay
from diffprof.model.recording import Frame, KernelKind, Site, SyncRow, Timeline

HOST = 1000
"""pid and tid of the CPU's track."""

_THREAD = f'"pid":{HOST},"tid":{HOST}'

FIRST_STREAM = 7
"""Number that CUPTI gives the default stream."""

CALL_US = 1.0
"""Length drawn for a launching call, at most half of its event's host time. Where the launch queue is full it
goes on until there is room, as a real call does."""

ORIGIN_US = 1_000_000
"""Where the call begins on the trace's clock; some readers drop events at 0."""

FIRST_CORRELATION = 1 << 20
"""HolisticTraceAnalysis 0.5 keeps row numbers in the smallest type that holds the correlation ids, and fails
with pandas 3 where there are more rows: ids below 32768 would make that 16 bits."""

_LAUNCH_ID = 211
_WAIT_ID = 131
"""CUPTI's `cbid` of cudaLaunchKernel and cudaStreamSynchronize (cupti_runtime_cbid.h)."""

_COPY_KINDS = {
    "device-to-host": "Memcpy DtoH (Device -> Pageable)",
    "value-read": "Memcpy DtoH (Device -> Pageable)",
    "tensor-from-device-scalars": "Memcpy DtoH (Device -> Pageable)",
    "host-index": "Memcpy DtoH (Device -> Pageable)",
    "host-to-device": "Memcpy HtoD (Pageable -> Device)",
    "staged-copy": "Memcpy HtoD (Pageable -> Device)",
}

_DTYPE_NAMES = {python: name for name, python in reversed(DTYPES.items())}


def on_host(us: float) -> float:
    """Host times in 64ths of a microsecond: sums of start and length are exact, so that neighbours touch and
    children end inside their parents whatever a reader adds up."""
    return ORIGIN_US + round(us * 64) / 64


def times_on_host(us: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same of many."""
    return ORIGIN_US + np.rint(us * 64) / 64


@dataclass(frozen=True)
class _Form:
    """What the lines of one kind and one sync row have in common, as pieces of JSON."""

    op: str
    """`"name":...` of the operation."""
    shapes: str
    """Args of the operation after the first."""
    call: str = ""
    """Runtime call that launches it."""
    work: str = ""
    """`"cat":...,"name":...` of the device work; empty for kinds that launch nothing."""
    extent: str = ""
    """Args of the device work after the others."""
    frames: tuple[str, ...] = ()
    """`"name":...` of the Python frames, outermost first."""


def drawn(timeline: Timeline, run: Replay) -> tuple[Timeline, Replay]:
    """Both with host time for every launch. What the CPU issues in one, as a CUDA graph, takes it no time
    after the first launch: all of them share that, so that each lies inside its operator and its module.

    run: `replay(timeline)`.
    """
    spent, start, end = list(timeline.host_us), list(run.host_start), list(run.host_end)
    first, count = 0, len(spent)
    while first < count:
        last = first + 1
        while last < count and end[last] == end[first] and run.wait_start[last] < 0.0:
            last += 1
        if last - first > 1 and run.wait_start[first] < 0.0:
            begin, share = start[first], (end[first] - start[first]) / (last - first)
            edges = [begin + share * n for n in range(last - first)] + [end[first]]
            start[first:last], end[first:last] = edges[:-1], edges[1:]
            spent[first:last] = [share] * (last - first)
        first = last
    return replace(timeline, host_us=tuple(spent)), replace(run, host_start=tuple(start), host_end=tuple(end))


def operation_lines(timeline: Timeline, run: Replay, syncs: Sequence[SyncRow]) -> Iterator[str]:
    """For each of the timeline's events, in host order, all that it does: JSON objects, one a line, commas
    between them.

    run: `replay(timeline)`. syncs: the rows that `timeline.sync` points to.
    """
    forms: dict[tuple[int, int], _Form] = {}
    base = max(FIRST_CORRELATION, len(timeline.host_us))
    columns = zip(timeline.kind, timeline.sync, timeline.stream, *_times(timeline, run), strict=True)
    for index, (
        kind,
        row,
        track,
        blocks,
        first,
        lasts,
        begun,
        called,
        issued,
        left,
        launched,
        ran,
    ) in enumerate(columns):
        if kind < 0 and not blocks:
            continue
        form = forms.get((kind, row))
        if form is None:
            form = forms[kind, row] = _form(timeline, kind, syncs[row] if 0 <= row < len(syncs) else None)
        # Never equal: readers tell older traces, which repeat the correlation id as External id, by that.
        external = index + 1
        correlation = base + 1 + 2 * index
        when = f'{_THREAD},"ts":{first},"dur":{lasts}'
        text = (
            f'{{"ph":"X","cat":"cpu_op",{form.op},{when},"args":{{"External id":{external}{form.shapes}}}}}'
        )
        for frame in reversed(form.frames):
            text = f'{{"ph":"X","cat":"python_function",{frame},{when},"args":{{}}}},\n{text}'
        launches = launched >= 0 and form.work
        if launches:
            stream = FIRST_STREAM + max(track, 0)
            both = f'"External id":{external},"correlation":{correlation}'
            arrow = f'"cat":"ac2g","name":"ac2g","id":{correlation}'
            text = (
                f'{text},\n{{"ph":"X","cat":"cuda_runtime","name":"{form.call}",{_THREAD},"ts":{begun},'
                f'"dur":{called},"args":{{{both},"cbid":{_LAUNCH_ID}}}}},\n'
                f'{{"ph":"X",{form.work},"pid":0,"tid":{stream},"ts":{launched},'
                f'"dur":{ran},"args":{{{both},"device":0,"context":1,"stream":{stream}'
                f"{form.extent}}}}},\n"
                f'{{"ph":"s",{arrow},{_THREAD},"ts":{begun}}},\n'
                f'{{"ph":"f","bp":"e",{arrow},"pid":0,"tid":{stream},"ts":{launched}}}'
            )
        if blocks:
            name = "cudaDeviceSynchronize" if track < 0 else "cudaStreamSynchronize"
            at, rest = (issued, left) if launches else (begun, first + lasts - begun)
            text = (
                f'{text},\n{{"ph":"X","cat":"cuda_runtime","name":"{name}",{_THREAD},"ts":{at},"dur":{rest},'
                f'"args":{{"External id":{external},"correlation":{correlation + 1},"cbid":{_WAIT_ID}}}}}'
            )
        yield text


def _times(timeline: Timeline, run: Replay) -> Iterator[list[float]]:
    """Of each event, on the trace's clock: whether it waits; when it begins and how long it takes; when its
    launching call begins and how long it takes; when a wait begins behind it and how long it takes; when its
    device work begins (below 0: none) and how long it takes.

    Device times are in whole microseconds, each edge to the nearest, so that neighbours still touch:
    HolisticTraceAnalysis cuts starts up and ends down to microseconds, which would open a gap between any two
    kernels that follow each other.
    """
    spent, start, end, waits, begins, ends = (
        np.array(column)
        for column in (
            timeline.host_us,
            run.host_start,
            run.host_end,
            run.wait_start,
            run.device_start,
            run.device_end,
        )
    )
    blocks = waits >= 0.0
    first, last = times_on_host(start), times_on_host(end)
    issues = np.where(blocks, waits, end)
    begun = times_on_host(np.minimum(issues, start + spent) - np.minimum(CALL_US, 0.5 * spent))
    issued = np.where(blocks, times_on_host(issues), last)
    launched = np.where(begins >= 0.0, np.rint(ORIGIN_US + begins), -1.0).astype(np.int64)
    ran = np.rint(ORIGIN_US + ends).astype(np.int64) - launched
    for column in (blocks, first, last - first, begun, issued - begun, issued, last - issued, launched, ran):
        yield column.tolist()


def _form(timeline: Timeline, number: int, sync: SyncRow | None) -> _Form:
    kind = timeline.kinds[number] if number >= 0 else None
    if kind is None:
        return _Form(op=_named(sync.op if sync else "synchronize"), shapes="", frames=_frames(sync))
    name, category, call = _work(kind, sync)
    return _Form(
        op=_named(kind.op or (sync.op if sync else "synchronize")),
        shapes=_shapes(kind),
        call=call,
        work=f'"cat":"{category}",{_named(name)}',
        extent=_extent(kind, category),
        frames=_frames(sync),
    )


def _named(text: str) -> str:
    return f'"name":{json.dumps(text)}'


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


def _extent(kind: KernelKind, category: str) -> str:
    if category == "kernel":
        return f',"flops":{kind.flops}' if kind.flops is not None else ""
    return f',"bytes":{int(kind.bytes)}' if kind.bytes is not None else ""


def _shapes(kind: KernelKind) -> str:
    """Shapes and types as Kineto writes them; the type alone when the text is no list of shapes."""
    dtype = _DTYPE_NAMES.get(kind.dtype, kind.dtype)
    shapes: list[list[int]] = []
    for each in kind.shape.split(", ") if kind.shape else ():
        sizes = each.split("x")
        if not all(size.isdigit() for size in sizes):
            shapes.clear()
            break
        shapes.append([int(size) for size in sizes])
    types = json.dumps([dtype] * max(1, len(shapes))) if dtype else ""
    dims = f',"Input Dims":{json.dumps(shapes)}' if shapes else ""
    return f'{dims},"Input type":{types}' if types else dims


def _frames(sync: SyncRow | None) -> tuple[str, ...]:
    if sync is None or not sync.site.line:
        return ()
    frames: list[Frame | Site] = [*reversed(sync.site.chain), sync.site]
    return tuple(_named(f"{frame.file}({frame.line}): {frame.function}") for frame in frames)
