"""Many traces to rows of one table."""

from __future__ import annotations

import datetime
import re
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from diffprof import __version__
from diffprof.chrome_trace.communication import Communication, communication_of
from diffprof.chrome_trace.events import Trace
from diffprof.chrome_trace.nsight import read_any
from diffprof.chrome_trace.sections import Sections, sections_of
from diffprof.fleet import torch_trace
from diffprof.fleet.engine import Engine, Result, Task
from diffprof.fleet.gathering import Told, gather, there
from diffprof.fleet.sources import Source, local
from diffprof.fleet.store import Store
from diffprof.fleet.torch_trace import compile_row
from diffprof.judge.judging import make_report
from diffprof.model.compiles import CompileRow
from diffprof.model.recording import Recording, Site
from diffprof.model.report import Report
from diffprof.model.traces import FAILED, FindingLine, TraceRow, WaitLine
from diffprof.scanning.importing import recording_of

Row = TypeVar("Row", TraceRow, CompileRow)

TABLE = "traces"

ZIPPED, PLAIN, OWN = 90, 7, 300 << 20
"""Bytes of memory that reading takes for each byte of a file that is zipped, or is not, and beside them."""

MOST_FINDINGS = 12
_STEP = re.compile(r"^ProfilerStep#\d+$")
_HANDLER = re.compile(r"^(.+)_\d+\.\d+\.pt\.trace\.json(?:\.gz)?$")
"""Names that torch.profiler.tensorboard_trace_handler gives: host, process, time."""


def import_traces(
    found: Sequence[Source],
    store: Store,
    engine: Engine,
    *,
    again: bool = False,
    told: Callable[[Told], None] | None = None,
) -> tuple[TraceRow, ...]:
    """The rows of these files, in their order; what the store has is not read again.

    again: read what failed once more. Stopped at any time, what was written is whole.
    """
    return imported(found, store, engine, TABLE, TraceRow, trace_row, again=again, told=told)


def import_logs(
    found: Sequence[Source],
    store: Store,
    engine: Engine,
    *,
    again: bool = False,
    told: Callable[[Told], None] | None = None,
) -> tuple[CompileRow, ...]:
    """The same of logs of TORCH_TRACE."""
    return imported(found, store, engine, torch_trace.TABLE, CompileRow, compile_row, again=again, told=told)


def imported(
    found: Sequence[Source],
    store: Store,
    engine: Engine,
    table: str,
    kind: type[Row],
    read: Callable[[Source], Row],
    *,
    again: bool,
    told: Callable[[Told], None] | None,
) -> tuple[Row, ...]:
    """Files to rows of one table, by `read` in workers."""
    done = there(store, table, kind, again=again)
    left = {source.key: source for source in found if source.key not in done}
    tasks = [Task(key, read, (source,), memory_of(source)) for key, source in left.items()]

    def rows_of(result: Result) -> list[Row]:
        return [result.value if result.error is None else _failed(kind, left[result.key], result)]

    gather(tasks, store, table, engine, rows_of, told=told)
    known = {row.key: row for row in store.rows(table, kind)}
    return tuple(known[source.key] for source in found)


def memory_of(source: Source) -> int:
    """Bytes that reading it takes at most, as far as is known."""
    return OWN + source.bytes * (ZIPPED if source.name.endswith(".gz") else PLAIN)


def _failed(kind: type[Row], source: Source, result: Result) -> Row:
    return kind(
        key=source.key,
        path=source.url,
        folder=source.folder,
        bytes=source.bytes,
        status=FAILED,
        reason=" ".join((result.error or "").split()),
        took_s=result.seconds,
        diffprof=__version__,
    )


def trace_row(source: Source) -> TraceRow:
    """What one trace tells; in a worker. Raises UsageError for what is no trace."""
    started = time.perf_counter()
    with local(source) as path:
        trace = read_any(path)
    sections = sections_of(trace)
    report = make_report(recording_of(trace, sections, {}))
    row = TraceRow(
        key=source.key,
        path=source.url,
        folder=source.folder,
        bytes=source.bytes,
        created=_created(trace),
        events=trace.events,
        step_us=_steps(trace, sections),
        diffprof=__version__,
        **_place(trace, source.name),
        **_figures(report.recording, sections),
        **_lines(report),
        **_communication(trace, sections),
    )
    return msgspec.structs.replace(row, took_s=time.perf_counter() - started)


def _place(trace: Trace, name: str) -> dict[str, Any]:
    """Rank and host."""
    told = trace.meta.get("distributedInfo")
    told = told if isinstance(told, dict) else {}
    handler = _HANDLER.match(name)
    host = trace.meta.get("hostname") or told.get("hostname") or (handler.group(1) if handler else "")
    return {"rank": _whole(told.get("rank")), "world_size": _whole(told.get("world_size")), "host": str(host)}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _created(trace: Trace) -> str:
    """When it begins, where its clock can be told."""
    base = trace.meta.get("baseTimeNanoseconds")
    seconds = (base / 1e9 if isinstance(base, int | float) else 0.0) + trace.origin_us / 1e6
    try:
        begun = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return ""
    return begun.isoformat(timespec="seconds") if 2015 < begun.year < 2100 else ""


def _figures(recording: Recording, sections: Sections) -> dict[str, Any]:
    idle: dict[str, float] = defaultdict(float)
    for gap in recording.gaps or ():
        idle[gap.cause] += gap.duration_us
    families: dict[str, float] = defaultdict(float)
    for kernel in recording.kernels or ():
        families[kernel.family] += kernel.device_us
    return {
        "gpu": recording.device.name,
        "grade": str(sections.grade),
        "pipeline": recording.target.pipeline,
        "mode": sections.mode,
        "kernels": sum(kernel.count for kernel in recording.kernels or ()),
        "window_us": sections.window_us,
        "busy_us": sections.busy_us,
        "idle_us": dict(idle),
        "families": dict(families),
        "peak_bytes": recording.memory.peak_bytes if recording.memory else None,
    }


def _lines(report: Report) -> dict[str, Any]:
    waits = tuple(
        WaitLine(line=_place_of(row.site), kind=row.kind, count=row.count, blocked_us=row.blocked_us)
        for row in report.recording.syncs or ()
    )
    findings = tuple(
        FindingLine(
            rule=each.rule,
            line=each.where,
            message=each.message,
            saves_us=None if each.saves_ms is None else each.saves_ms * 1e3,
        )
        for each in report.findings[:MOST_FINDINGS]
        if not each.fact
    )
    return {"waits": waits, "findings": findings}


def _place_of(site: Site) -> str:
    return f"{site.file}:{site.line}" if site.line else site.file


def _communication(trace: Trace, sections: Sections) -> dict[str, Any]:
    told: Communication | None = None
    if sections.device is not None and sections.busy_us is not None:
        told = communication_of(trace, sections.device)
    if told is None:
        return {}
    return {
        "computation_us": told.computation_us,
        "communication_us": told.communication_us,
        "exposed_us": told.communication_us - told.overlap_us,
        "collectives": told.lengths,
    }


def _steps(trace: Trace, sections: Sections) -> tuple[float, ...]:
    """Of the profiler's own steps, else of the denoising loop."""
    notes = trace.annotations
    rows = [row for row in range(len(notes)) if _STEP.match(trace.name(notes, row))]
    if rows:
        return tuple(float(notes.dur[row]) for row in rows)
    return tuple(float(end - start) for start, end in sections.phases.step_spans)
