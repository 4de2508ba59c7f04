"""HolisticTraceAnalysis' answers to what diffprof tells too, in `hta.json`.

`python -m tests.chrome_trace.hta FOLDER` asks it again, where it is installed (it brings JupyterLab: no test
needs it), about the real traces in FOLDER and about one that diffprof writes.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

ANSWERS = Path(__file__).with_name("hta.json")
WRITTEN = "written"
"""The trace of diffprof's own, in the answers."""
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class Breakdown:
    """Device time from the first to the last work, idle time in it, and the summed length of all work."""

    span_us: float
    idle_us: float
    work_us: float
    count: int


def answered(name: str) -> Breakdown:
    """What it said of a trace."""
    return Breakdown(**json.loads(ANSWERS.read_text())["breakdown"][name])


def answered_host_wait_us(name: str) -> float:
    return float(json.loads(ANSWERS.read_text())["host_wait_us"][name])


def breakdown(path: Path, *, nanoseconds: bool = False) -> Breakdown:
    """Its temporal breakdown of a trace, all iterations.

    It counts whatever names a stream as device work, so Kineto's `cuda_sync` rows and inductor's host rows
    are taken out first. nanoseconds: keep them (its own option); by default it cuts times to microseconds.
    """
    environment = {"HTA_DISABLE_NS_ROUNDING": "1" if nanoseconds else "0"}
    with mock.patch.dict(os.environ, environment), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hta.trace_analysis import TraceAnalysis

        logging.disable(logging.CRITICAL)
        try:
            analysis = TraceAnalysis({0: str(path)}, "", include_last_profiler_step=True)
            names = analysis.t.symbol_table.get_sym_table()
            frame = analysis.t.traces[0]
            frame = frame[frame["stream"].eq(-1) | frame["cat"].map(lambda c: names[c] in DEVICE_WORK)]
            analysis.t.traces[0] = frame
            row = analysis.get_temporal_breakdown(visualize=False).iloc[0]
        finally:
            logging.disable(logging.NOTSET)
    work = frame[frame["stream"].ne(-1)]
    return Breakdown(
        span_us=float(row["kernel_time(us)"]),
        idle_us=float(row["idle_time(us)"]),
        work_us=float(work["dur"].sum()),
        count=len(work),
    )


def host_wait_us(path: Path) -> float:
    """Idle time of all streams for which the launch came after the work before it had ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from hta.trace_analysis import TraceAnalysis

        logging.disable(logging.CRITICAL)
        try:
            analysis = TraceAnalysis({0: str(path)}, "", include_last_profiler_step=True)
            frame = analysis.get_idle_time_breakdown(ranks=[0], visualize=False)[0]
        finally:
            logging.disable(logging.NOTSET)
    return float(frame[frame["idle_category"] == "host_wait"]["idle_time"].sum())


def ask(folder: Path) -> dict[str, dict[str, object]]:
    from tests.chrome_trace.test_real_traces import TRACES, WAITING
    from tests.chrome_trace.test_writer import written

    paths = {known.name: folder / f"{known.name}.json.gz" for known in TRACES}
    found: dict[str, object] = {
        known.name: asdict(breakdown(paths[known.name], nanoseconds=known.nanoseconds)) for known in TRACES
    }
    with tempfile.TemporaryDirectory() as scratch:
        found[WRITTEN] = asdict(breakdown(written(Path(scratch) / "trace.json")))
    return {"breakdown": found, "host_wait_us": {name: host_wait_us(paths[name]) for name in WAITING}}


if __name__ == "__main__":
    ANSWERS.write_text(json.dumps(ask(Path(sys.argv[1])), indent=1) + "\n")
