"""From a trace file to columns."""

from __future__ import annotations

import gc
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import compress
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from diffprof.chrome_trace.events import (
    IDLE_WORK,
    Detail,
    EventTable,
    Memory,
    Spans,
    Trace,
    is_known,
    table_of,
)
from diffprof.chrome_trace.stream import Args, Event, TraceStream
from diffprof.model.errors import UsageError

STOPPED = "reading it was stopped"
"""`Trace.truncated` of a trace that has more."""

LATEST_US = float(1 << 63) / 1e3
"""What a time or a length stays below: Kineto counts nanoseconds in 64 bits."""

NAME_LIMIT = 4096
"""Characters of a name that are kept: names of templates have a few hundred, and every pattern that tells a
name's meaning is tried on it."""

DETAIL_LIMIT = 1 << 16
"""Bytes of an op's shapes, types or stack that are looked at."""

_NO_ARGS = Args()


K = TypeVar("K")


class _Codes(dict[K, int]):
    """Value -> small number, numbered as they come."""

    def __missing__(self, key: K) -> int:
        self[key] = code = len(self)
        return code


class _Names(_Codes[str | None]):
    """Numbered names. texts: what is kept of each."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __missing__(self, key: str | None) -> int:
        self.texts.append(short_text(key or ""))
        return super().__missing__(key)


def short_text(text: str) -> str:
    """The text, or the beginning of one that is too long; two long ones that differ stay apart."""
    if len(text) <= NAME_LIMIT:
        return text
    mark = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    return f"{text[:NAME_LIMIT]}... ({len(text):,} characters, {mark:08x})"


def _number(value: Any) -> int:
    try:
        number = int(value, 0) if isinstance(value, str) else int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
    return number if -(1 << 63) <= number < 1 << 63 else -1


def _floats(rows: Sequence[object], name: str) -> np.ndarray:
    """The column as numbers; NaN for what is none, or more than a clock can tell."""
    try:
        found = np.fromiter(map(attrgetter(name), rows), float, len(rows))  # None becomes NaN
    except OverflowError:
        found = np.fromiter((_float(getattr(row, name)) for row in rows), float, len(rows))
    found[~(np.abs(found) < LATEST_US)] = np.nan
    return found


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, OverflowError):
        return np.nan


def _ints(rows: Sequence[object], name: str, dtype: type[np.signedinteger] = np.int64) -> np.ndarray:
    try:
        return np.fromiter(map(attrgetter(name), rows), dtype, len(rows))
    except (TypeError, ValueError, OverflowError):
        slow = np.fromiter((_number(getattr(row, name)) for row in rows), np.int64, len(rows))
        info = np.iinfo(dtype)
        slow[(slow < info.min) | (slow > info.max)] = -1
        return slow.astype(dtype)


class _Columns:
    """Pieces of one column set, chunk by chunk."""

    def __init__(self) -> None:
        self.pieces: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, **columns: np.ndarray) -> None:
        for name, values in columns.items():
            self.pieces[name].append(values)

    def spans(self) -> Spans:
        """All pieces as one, sorted by start, longer first."""
        if not self.pieces:
            return Spans()
        columns = {}
        for name in list(self.pieces):
            columns[name] = np.concatenate(self.pieces.pop(name))
        ts = columns["ts"]
        if len(ts) > 1 and (np.diff(ts) <= 0).any():
            order = np.lexsort((-columns["dur"], ts))
            for name, values in columns.items():
                columns[name] = values[order]
        return Spans(**columns)


class _Builder:
    def __init__(self) -> None:
        self.kinds = _Codes[tuple[str, str | None]]()
        self.names = _Names()
        self.tracks = _Codes[tuple[object, object]]()
        self.details = _Codes[Detail]()
        self.columns: dict[EventTable, _Columns] = defaultdict(_Columns)
        self.flows: dict[EventTable, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
        self.memory: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.labels: dict[object, str] = {}
        self.threads: dict[tuple[object, object], str] = {}
        self.categories: Counter[str] = Counter()
        self.open: dict[int, list[Event]] = defaultdict(list)
        self.halves: list[Event] = []
        self.origin: int | None = None
        self.events = 0
        self.damaged = 0
        self.lengthless = 0
        self.unclosed = 0

    def add(self, events: list[Event]) -> None:
        """Sort one chunk into its tables."""
        self.events += len(events)
        codes = np.fromiter(
            map(self.kinds.__getitem__, map(attrgetter("ph", "cat"), events)), np.int32, len(events)
        )
        kinds = list(self.kinds)
        for code, count in enumerate(np.bincount(codes, minlength=len(kinds)).tolist()):
            if kinds[code][0] in ("X", "B"):
                self.categories[kinds[code][1] or ""] += count
        tables = np.array([int(table_of(*kind)) for kind in kinds], np.int8)[codes]
        for number in np.unique(tables).tolist():
            table = EventTable(number)
            if table in (EventTable.IGNORED, EventTable.UNKNOWN):
                continue
            rows = list(compress(events, (tables == number).tolist()))
            if table == EventTable.META:
                self._meta(rows)
            elif table in (EventTable.BEGIN, EventTable.END):
                self.halves.extend(rows)
            elif table == EventTable.MEMORY:
                self._memory([row for row in rows if row.name == "[memory]" and row.args])
            elif table in (EventTable.FLOW_START, EventTable.FLOW_END):
                self._flow(table, rows)
            else:
                self._spans(table, rows)

    def _times(self, rows: list[Any]) -> tuple[list[Any], np.ndarray]:
        """Rows that have a time, and the times since the origin."""
        times = _floats(rows, "ts")
        timeless = np.isnan(times)
        if timeless.any():
            self.damaged += int(timeless.sum())
            rows, times = list(compress(rows, (~timeless).tolist())), times[~timeless]
        if not rows:
            return rows, np.empty(0)
        if self.origin is None:
            self.origin = int(rows[0].ts)
        if isinstance(rows[0].ts, Decimal):
            return rows, np.fromiter((float(row.ts - self.origin) for row in rows), float, len(rows))
        return rows, times - self.origin

    def _track(self, rows: list[Event]) -> np.ndarray:
        return np.fromiter(
            map(self.tracks.__getitem__, map(attrgetter("pid", "tid"), rows)), np.int32, len(rows)
        )

    def _spans(self, table: EventTable, rows: list[Event]) -> None:
        if table == EventTable.FRAME:
            # Built-in functions have no source line; their names hold addresses, so each is new.
            rows = [row for row in rows if not (row.name or "").startswith("<built-in")]
        elif table == EventTable.KERNEL:
            rows = [row for row in rows if row.name not in IDLE_WORK]
        elif table == EventTable.CALL:
            # MTIA draws each wait twice, on the thread and on the device.
            rows = [row for row in rows if row.args is None or row.pid != row.args.device]
        rows, ts = self._times(rows)
        count = len(rows)
        dur = _floats(rows, "dur")
        lengthless = ~(dur >= 0.0)
        self.lengthless += int(lengthless.sum())
        dur[lengthless] = 0.0
        columns = {
            "ts": ts,
            "dur": dur,
            "name": np.fromiter(map(self.names.__getitem__, map(attrgetter("name"), rows)), np.int32, count),
            "track": self._track(rows),
        }
        args = [row.args or _NO_ARGS for row in rows]
        if table == EventTable.OP:
            columns["external"] = _ints(args, "external")
            columns["detail"] = np.fromiter(map(self._detail, args), np.int32, count)
        elif table == EventTable.ANNOTATION:
            columns["external"] = _ints(args, "external")
        elif table == EventTable.CALL:
            columns["correlation"] = _ints(args, "correlation")
            columns["external"] = _ints(args, "external")
        elif table in (
            EventTable.KERNEL,
            EventTable.COPY,
            EventTable.SET,
            EventTable.WAIT,
            EventTable.DEVICE_ANNOTATION,
        ):
            columns["correlation"] = _ints(args, "correlation")
            columns["external"] = _ints(args, "external")
            columns["bytes"] = _ints(args, "bytes")
            columns["stream"] = _or_else(_ints(args, "stream", np.int32), rows, "tid")
            columns["device"] = _or_else(_ints(args, "device", np.int32), rows, "pid")
            columns["table"] = np.full(count, int(table), np.int8)
            if table == EventTable.KERNEL:
                columns["table"][[(row.name or "").startswith("dma_") for row in rows]] = int(EventTable.COPY)
        self.columns[table].add(**columns)

    def _detail(self, args: Args) -> int:
        shapes, dtypes = bytes(args.shapes), bytes(args.dtypes)
        if len(shapes) + len(dtypes) > DETAIL_LIMIT:
            shapes = dtypes = b""
        return self.details[Detail(shapes, dtypes, (args.stack or "")[:DETAIL_LIMIT])]

    def _flow(self, table: EventTable, rows: list[Event]) -> None:
        rows, ts = self._times(rows)
        self.flows[table].append((_ints(rows, "id"), ts, self._track(rows)))

    def _memory(self, rows: list[Event]) -> None:
        rows, ts = self._times(rows)
        args = [row.args or _NO_ARGS for row in rows]
        device = np.where(_ints(args, "device_type") == 0, -1, _ints(args, "device_id"))
        self.memory.append((ts, _ints(args, "allocated"), device))

    def _meta(self, rows: list[Event]) -> None:
        for row in rows:
            args = row.args or _NO_ARGS
            if row.name == "process_labels" and args.labels:
                self.labels[row.pid] = short_text(str(args.labels))
            elif row.name == "thread_name" and args.name:
                self.threads[row.pid, row.tid] = short_text(str(args.name))

    def pair(self) -> None:
        """Turn begin and end events into spans: an end closes the latest open begin on its track."""
        halves, _ = self._times(self.halves)
        self.halves = []
        halves.sort(key=attrgetter("ts"))
        closed: dict[EventTable, list[Event]] = defaultdict(list)
        for half in halves:
            track = self.tracks[half.pid, half.tid]
            if half.ph == "B":
                self.open[track].append(half)
                continue
            stack = self.open[track]
            if half.name and any(each.name == half.name for each in stack):
                while stack[-1].name != half.name:
                    stack.pop()
                    self.unclosed += 1
            elif half.name and stack:
                continue
            if stack:
                begun = stack.pop()
                begun.dur = float(half.ts - begun.ts)  # type: ignore[operator]
                table = table_of("X", begun.cat)
                if table not in (EventTable.IGNORED, EventTable.UNKNOWN):
                    closed[table].append(begun)
        self.unclosed += sum(map(len, self.open.values()))
        self.open.clear()
        for table, rows in closed.items():
            self._spans(table, rows)


def _or_else(values: np.ndarray, rows: list[Event], name: str) -> np.ndarray:
    """values, where missing the event's own pid or tid (Kineto: pid is the device, tid the stream)."""
    missing = np.flatnonzero(values < 0)
    for index in missing.tolist():
        values[index] = max(-1, min(_number(getattr(rows[index], name)), (1 << 31) - 1))
    return values


def _flow_correlation(builder: _Builder, calls: Spans, work: Spans) -> None:
    """Fill missing correlation ids from the flow arrows, in place: an arrow starts and ends where its two
    events do."""
    for table, spans in ((EventTable.FLOW_START, calls), (EventTable.FLOW_END, work)):
        pieces = builder.flows.get(table)
        if not pieces or not len(spans) or (spans.correlation >= 0).all():
            continue
        ids, ts, tracks = (np.concatenate(column) for column in zip(*pieces, strict=True))
        # Kineto writes three decimals; both ends come from the same number.
        arrows = dict(
            zip(zip(tracks.tolist(), np.round(ts, 3).tolist(), strict=True), ids.tolist(), strict=True)
        )
        places = zip(spans.track.tolist(), np.round(spans.ts, 3).tolist(), strict=True)
        found = np.fromiter((arrows.get(place, -1) for place in places), np.int64, len(spans))
        spans.correlation = np.where(spans.correlation >= 0, spans.correlation, found)


def read_trace(
    path: str | Path,
    *,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trace:
    """Read a Kineto trace, `.json` or `.json.gz`, in one pass and in little memory.

    progress: called with the bytes of JSON read so far. stop: asked now and then whether to end here. A trace
    that is cut short or partly damaged, or whose reading is stopped, is read as far as it goes
    (`Trace.truncated`, `Trace.damaged`).
    Raises UsageError for a file that can't be opened, is empty, or is no trace of PyTorch's profiler.
    """
    source = TraceStream(Path(path))
    builder = _Builder()
    collecting = gc.isenabled()
    gc.disable()  # Hundreds of thousands of short-lived objects, none in a cycle.
    try:
        for chunk in source.events():
            builder.add(chunk)
            chunk.clear()
            if progress:
                progress(source.size)
            if stop and stop():
                source.truncated = STOPPED
                break
        builder.pair()
    finally:
        if collecting:
            gc.enable()
    return _finish(source, builder)


def _finish(source: TraceStream, builder: _Builder) -> Trace:
    if not any(is_known(category) for category in builder.categories):
        raise _not_kineto(source, builder)
    work = _Columns()
    for table in (EventTable.KERNEL, EventTable.COPY, EventTable.SET):
        for name, pieces in builder.columns[table].pieces.items():
            work.pieces[name].extend(pieces)
    columns = builder.columns
    if builder.damaged and not any(len(ts) for each in columns.values() for ts in each.pieces.get("ts", ())):
        raise _unreadable(source, builder.damaged)
    calls, device = columns[EventTable.CALL].spans(), work.spans()
    _to_threads(builder, calls)
    _flow_correlation(builder, calls, device)
    builder.flows.clear()
    memory = (
        [np.concatenate(column) for column in zip(*builder.memory, strict=True)] if builder.memory else []
    )
    return Trace(
        path=source.path,
        meta=source.header,
        origin_us=float(builder.origin or 0),
        names=builder.names.texts,
        tracks=list(builder.tracks),
        details=list(builder.details),
        ops=columns[EventTable.OP].spans(),
        annotations=columns[EventTable.ANNOTATION].spans(),
        calls=calls,
        work=device,
        waits=columns[EventTable.WAIT].spans(),
        device_annotations=columns[EventTable.DEVICE_ANNOTATION].spans(),
        frames=columns[EventTable.FRAME].spans(),
        memory=Memory(*memory) if memory else Memory(np.empty(0), np.empty(0), np.empty(0)),
        labels=builder.labels,
        threads=builder.threads,
        events=builder.events,
        json_bytes=source.size,
        categories=dict(builder.categories),
        truncated=source.truncated,
        damaged=source.damaged + builder.damaged,
        unclosed=builder.unclosed,
        lengthless=builder.lengthless,
    )


def _to_threads(builder: _Builder, calls: Spans) -> None:
    """Put calls that name their thread but no process (`xpu_sync`: pid -1) on its track, in place."""
    tracks = list(builder.tracks)
    of_thread = {tid: code for code, (pid, tid) in enumerate(tracks) if pid != -1}
    homeless = {
        code: of_thread[tid] for code, (pid, tid) in enumerate(tracks) if pid == -1 and tid in of_thread
    }
    if homeless and len(calls):
        calls.track = np.array([homeless.get(code, code) for code in range(len(tracks))], np.int32)[
            calls.track
        ]


def _unreadable(source: TraceStream, events: int) -> UsageError:
    return UsageError(
        f"{source.path} holds {events:,} events, and none can be read.",
        "Each needs a name, a category and a time in microseconds (`ts`). Record the profile again.",
    )


def _not_kineto(source: TraceStream, builder: _Builder) -> UsageError:
    hint = "diffprof reads traces of PyTorch's profiler, as `prof.export_chrome_trace` writes them."
    if not builder.events:
        if source.damaged:
            return _unreadable(source, source.damaged)
        why = f": {source.truncated}" if source.truncated else ""
        return UsageError(f"{source.path} holds no events{why}.", "Record the profile again. " + hint)
    seen: Iterable[str] = [name or "(none)" for name, _ in Counter(builder.categories).most_common(5)]
    return UsageError(
        f"{source.path} is a Chrome trace, but not one of PyTorch's profiler: its event categories are "
        f"{', '.join(seen) or 'none'}.",
        hint,
    )
