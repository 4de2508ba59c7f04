"""A copy of a run's trace in the form that torch-tb-profiler 0.4.3 reads rightly.

On traces of today's Kineto it silently shows zeros: runtime calls have a category that it doesn't know, so
that no kernel belongs to an operator (`EventTypeMap` in its profiler/trace.py), and call stacks are no longer
an argument of the operators. A copy is changed, the recorded trace never is.
"""

from __future__ import annotations

import gzip
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from diffprof.chrome_trace.embedded_recording import KEY as CARRIED
from diffprof.chrome_trace.events import MODULE_PREFIX, EventTable, parse_phase, table_of
from diffprof.chrome_trace.op_lines import ORIGIN_US
from diffprof.chrome_trace.reader import LATEST_US
from diffprof.chrome_trace.storing import kineto_properties
from diffprof.chrome_trace.writer import write_trace
from diffprof.judge.timeline import replay
from diffprof.model.collection import paused_collection
from diffprof.model.plain import clean
from diffprof.model.recording import Recording, Timeline
from diffprof.views.tensorboard.modules import module_events

Event = dict[str, Any]

TENSOR_CORES = " (tensor cores)"
"""Appended to the name of a predicted kernel that is modelled on tensor cores; the plugin knows those of real
kernels by their names."""

_DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
_TENSOR_CORE_FAMILIES = ("gemm", "conv", "attention")
_TENSOR_CORE_TYPES = ("tf32", "float16", "bfloat16", "int8", "float8_e4m3fn", "float8_e5m2")

_GRID = 64
"""Parts of a microsecond that are told apart in a recorded trace."""

_NO_TRACK = 1
"""Number of a host thread on which nothing runs."""

_NO_FRAME = ("<built-in", "nn.Module: ", "torch/_ops", "torch/nn/modules/module.py", "<frozen", "runpy")
"""Frames that say nothing about who called."""


def plugin_trace(recording: Recording, folder: Path) -> bytes | None:
    """The run's trace for the plugin, gzipped; None where nothing was recorded over time.

    folder: of the run, where `trace_file` lies. Raises OSError or ValueError when a trace that the recording
    names can't be read.
    """
    # Hundreds of thousands of objects, none in a cycle.
    with paused_collection():
        document = _document(recording, folder)
        if document is None:
            return None
        # Level 1, and no time in the header: the same trace gives the same bytes.
        return gzip.compress(msgspec.json.encode(rewritten(document)), compresslevel=1, mtime=0)


def _document(recording: Recording, folder: Path) -> dict[str, object] | None:
    if recording.trace_file is not None and recording.device.kind != "sim":
        return _read(folder / recording.trace_file)
    if recording.timeline is not None and recording.timeline.host_us:
        return _written(recording)
    return None


def rewritten(document: Mapping[str, Any]) -> dict[str, object]:
    """The document as the plugin wants it. The given one is used up: events are changed in place."""
    events = list(_kept([event for event in document.get("traceEvents", ()) if _is_sound(event)]))
    for event in events:
        _on_grid(event, _GRID)
        if event.get("ph") == "X" and table_of("X", event.get("cat")) == EventTable.CALL:
            event["cat"] = "Runtime"
    link_calls(events)
    add_call_stacks(events)
    if not any("Python module id" in (event.get("args") or ()) for event in events):
        modules = module_events(events)
        events = [*modules, *(e for e in events if not _name(e).startswith(MODULE_PREFIX))]
    events = [*_steps(events), *events]
    kept = {key: value for key, value in document.items() if key != CARRIED}
    return {**kept, "traceEvents": events}


def _read(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    try:
        document = msgspec.json.decode(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except msgspec.DecodeError:
        # Kineto writes raw control characters and half surrogates now and then.
        document = json.loads(data.decode("utf-8", "backslashreplace"), strict=False)
    if not isinstance(document, dict) or not isinstance(document.get("traceEvents"), list):
        raise ValueError("no list of traceEvents in it")
    return document if _is_plain(data) else _clean(document)


def _written(recording: Recording) -> dict[str, Any]:
    """The timeline as a trace, with what only the recording knows of its kernels."""
    timeline = recording.timeline
    assert timeline is not None
    run = replay(timeline)
    with tempfile.TemporaryDirectory() as scratch:
        path = write_trace(
            Path(scratch) / "trace.json",
            timeline,
            recording.syncs or (),
            device_name=f"{recording.device.name} ({timeline.grade})",
            properties=kineto_properties(recording.device),
            memory=recording.memory,
            run=run,
        )
        data = path.read_bytes()
    document: dict[str, Any] = msgspec.json.decode(data)
    if not _is_plain(data):
        document = _clean(document)
    for number, event in enumerate(document["traceEvents"]):
        if event.get("name") == "[memory]":
            # Only sums were recorded: on a track without operators, none is said to have allocated it.
            event["tid"] = _NO_TRACK
            event["args"]["Addr"] = number
        if event.get("cat") in _DEVICE_WORK:
            index = event["args"]["External id"] - 1
            # The stored trace has these in whole microseconds, of which a short kernel takes two.
            event["ts"] = ORIGIN_US + run.device_start[index]
            event["dur"] = run.device_end[index] - run.device_start[index]
            if event["cat"] == "kernel" and _on_tensor_cores(timeline, index):
                event["name"] += TENSOR_CORES
    return document


def _on_grid(event: Event, parts: int) -> None:
    """Round to parts of a microsecond. Both edges are rounded, so that what was nested stays nested, also in
    the plugin's sums of floats.

    parts: a power of two, or the sums are not exact.
    """
    start = event.get("ts")
    if not isinstance(start, int | float) or (
        isinstance(start, int) and isinstance(event.get("dur", 0), int)
    ):
        return
    first = round(start * parts)
    event["ts"] = first / parts if parts > 1 else first
    if "dur" in event:
        length = round((start + event["dur"]) * parts) - first
        event["dur"] = length / parts if parts > 1 else length


def _on_tensor_cores(timeline: Timeline, index: int) -> bool:
    kind = timeline.kinds[timeline.kind[index]]
    return kind.family in _TENSOR_CORE_FAMILIES and kind.dtype in _TENSOR_CORE_TYPES


_ACTING = re.compile(rb"\\[bfnrtu]|[^\n\x20-\x7e]")
"""In JSON: escapes of characters that may act, and bytes that may be. Line feeds stand between values."""


def _is_plain(data: bytes) -> bool:
    """Whether no string in the JSON can need cleaning, which takes most of the time otherwise."""
    return _ACTING.search(data) is None


def _clean(value: object) -> Any:
    """Every string in it without characters that act or hide."""
    if isinstance(value, str):
        return value if value.isprintable() else clean(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(item) for item in value]
    return value


_TEXTS = ("ph", "cat", "name")
_IDS = ("External id", "correlation", "Python id", "Python parent id", "Python module id")


def _is_sound(event: object) -> bool:
    """Whether an event of somebody's trace can be taken as one: with texts and times where they belong. Its
    arguments are made sound in place."""
    if not isinstance(event, dict) or any(not isinstance(event.get(key, ""), str) for key in _TEXTS):
        return False
    if any(isinstance(event.get(key), dict | list) for key in ("pid", "tid", "id")):
        return False
    needed = ("ts", "dur") if event.get("ph") == "X" else ()
    times = [event.get(key) for key in ("ts", "dur") if key in event or key in needed]
    if not all(_is_time(time) for time in times) or event.get("dur", 0) < 0:
        return False
    args = event.get("args")
    if not isinstance(args, dict):
        event["args"] = {}
        return True
    for key in _IDS:
        if key in args and not (isinstance(args[key], int) and abs(args[key]) < 1 << 63):
            del args[key]
    return True


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) < LATEST_US


def _kept(events: list[Event]) -> Iterator[Event]:
    """Without built-in functions, half of a trace with stacks, and without the device's copies of step
    marks, which the plugin would count as steps of their own."""
    parents: dict[int, int] = {}
    for event in events:
        args = event.get("args") or {}
        if _is_built_in(event) and "Python id" in args:
            parents[args["Python id"]] = args.get("Python parent id", -1)
    for event in events:
        if _is_built_in(event):
            continue
        if event.get("cat") == "gpu_user_annotation" and _name(event).startswith("ProfilerStep#"):
            continue
        args = event.get("args")
        if isinstance(args, dict) and args.get("Python parent id") in parents:
            parent, passed = args["Python parent id"], set()
            while parent in parents and parent not in passed:
                passed.add(parent)
                parent = parents[parent]
            args["Python parent id"] = parent
        yield event


def _is_built_in(event: Event) -> bool:
    return event.get("cat") == "python_function" and _name(event).startswith("<built-in")


def _name(event: Event) -> str:
    return str(event.get("name", ""))


def add_call_stacks(events: list[Event]) -> int:
    """Give every operator the Python frames that enclose it as `Call stack`, innermost first; returns how
    many got one. Where no frame was recorded, the modules that were called stand for them."""
    tracks: dict[tuple[object, object], list[Event]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and (
            event.get("cat") in ("python_function", "cpu_op") or _is_module(event)
        ):
            tracks[event.get("pid"), event.get("tid")].append(event)
    found = 0
    for track in tracks.values():
        track.sort(key=lambda event: (event["ts"], -event["dur"]))
        frames: list[tuple[float, str]] = []
        modules: list[tuple[float, str]] = []
        for event in track:
            for open_ in (frames, modules):
                while open_ and open_[-1][0] <= event["ts"]:
                    open_.pop()
            end = event["ts"] + event["dur"]
            if event["cat"] == "python_function":
                frames.append((end, _name(event)))
                continue
            if event["cat"] == "user_annotation":
                modules.append((end, _name(event)[len(MODULE_PREFIX) :]))
                continue
            stack = [name for _, name in reversed(frames) if not name.startswith(_NO_FRAME)]
            stack = stack or [name for _, name in reversed(modules)]
            if stack:
                event.setdefault("args", {}).setdefault("Call stack", ";".join(stack))
                found += 1
    return found


def _is_module(event: Event) -> bool:
    return event.get("cat") == "user_annotation" and _name(event).startswith(MODULE_PREFIX)


def link_calls(events: list[Event]) -> None:
    """Give runtime calls the `External id` of the operator around them, by which the plugin knows whose work
    a kernel is. Older traces repeat the correlation id in its place, and some have none."""
    tracks: dict[tuple[object, object], list[Event]] = defaultdict(list)
    for event in events:
        if event.get("ph") == "X" and event.get("cat") in ("cpu_op", "Runtime"):
            tracks[event.get("pid"), event.get("tid")].append(event)
    owners: dict[object, object] = {}
    for track in tracks.values():
        track.sort(key=lambda event: (event["ts"], -event["dur"], event["cat"] == "Runtime"))
        open_: list[tuple[float, object]] = []
        for event in track:
            while open_ and open_[-1][0] <= event["ts"]:
                open_.pop()
            args = event.get("args") or {}
            if event["cat"] == "cpu_op":
                open_.append((event["ts"] + event["dur"], args.get("External id")))
            elif open_ and args.get("External id") in (None, args.get("correlation")):
                event["args"] = args
                args["External id"] = open_[-1][1]
                if "correlation" in args:
                    owners[args["correlation"]] = open_[-1][1]
    for event in events:
        args = event.get("args") or {}
        if event.get("cat") != "Runtime" and args.get("correlation") in owners:
            args["External id"] = owners[args["correlation"]]


def _steps(events: list[Event]) -> list[Event]:
    """A step mark for each denoising step, where the trace has diffprof's phases: the plugin then breaks time
    down by step. The call's own mark goes."""
    spans: dict[int, tuple[float, float]] = {}
    worked: set[int] = set()
    track: dict[str, object] = {}
    for event in events:
        if event.get("cat") != "user_annotation" or event.get("ph") != "X":
            continue
        phase = parse_phase(_name(event))
        if phase is None or phase.step is None:
            continue
        start, end = spans.get(phase.step, (event["ts"], event["ts"]))
        spans[phase.step] = (min(start, event["ts"]), max(end, event["ts"] + event["dur"]))
        track = {"pid": event.get("pid"), "tid": event.get("tid")}
        # What stands between the last step and the decoder has a number too, and no denoiser.
        if phase.part is not None:
            worked.add(phase.step)
    if len(worked) < 2:
        return []
    modules = [
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if "Python module id" in (event.get("args") or ())
    ]
    for step, (start, end) in spans.items():
        # A module's mark begins a moment before the phase that it opens.
        around = (first for first, last in modules if first < start < last <= end)
        spans[step] = (min(around, default=start), end)
    events[:] = [
        event
        for event in events
        if not (event.get("cat") == "user_annotation" and _name(event).startswith("ProfilerStep#"))
    ]
    return [
        {
            "ph": "X",
            "cat": "user_annotation",
            "name": f"ProfilerStep#{step}",
            **track,
            "ts": start,
            "dur": end - start,
            "args": {},
        }
        for step, (start, end) in sorted(spans.items())
        if step in worked
    ]
