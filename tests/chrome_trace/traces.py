"""Small traces made by hand, in Kineto's form."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Event = dict[str, Any]
HOST = 10
STREAM = 7


def span(
    cat: str, name: str, ts: float, dur: float, *, pid: Any = HOST, tid: Any = HOST, **args: Any
) -> Event:
    return {"ph": "X", "cat": cat, "name": name, "pid": pid, "tid": tid, "ts": ts, "dur": dur, "args": args}


def op(name: str, ts: float, dur: float, **args: Any) -> Event:
    return span("cpu_op", name, ts, dur, **args)


def call(name: str, ts: float, dur: float, number: int = -1, *, tid: Any = HOST) -> Event:
    args = {"correlation": number} if number >= 0 else {}
    return span("cuda_runtime", name, ts, dur, tid=tid, **args)


def kernel(
    name: str, ts: float, dur: float, number: int = -1, *, cat: str = "kernel", stream: int = STREAM
) -> Event:
    args: Event = {"device": 0, "stream": stream}
    if number >= 0:
        args["correlation"] = number
    return span(cat, name, ts, dur, pid=0, tid=stream, **args)


def frame(name: str, ts: float, dur: float) -> Event:
    return span("python_function", name, ts, dur)


def note(name: str, ts: float, dur: float) -> Event:
    return span("user_annotation", name, ts, dur)


def launch(number: int, at: float, start: float, dur: float, *, name: str = "k") -> list[Event]:
    """An op, its launch at `at` and a kernel."""
    return [
        op(f"aten::{name}", at - 2, 6),
        call("cudaLaunchKernel", at, 3, number),
        kernel(f"{name}_kernel", start, dur, number),
    ]


def write(path: Path, events: list[Event], **header: Any) -> Path:
    data = json.dumps({"schemaVersion": 1, **header, "traceEvents": events}).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
