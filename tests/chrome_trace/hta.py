"""HolisticTraceAnalysis, asked for the figures that diffprof gives too."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True)
class Breakdown:
    """Device time from the first to the last work, idle time in it, and the summed length of all work."""

    span_us: float
    idle_us: float
    work_us: float
    count: int


def breakdown(path: Path, *, nanoseconds: bool = False) -> Breakdown:
    """Its temporal breakdown of a trace, all iterations.

    It counts whatever names a stream as device work, so Kineto's `cuda_sync` rows and inductor's host rows
    are taken out first. nanoseconds: keep them (its own option); by default it cuts times to microseconds.
    Skips the test when it is not installed.
    """
    pytest.importorskip("hta", reason="HolisticTraceAnalysis is not installed")
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
    pytest.importorskip("hta", reason="HolisticTraceAnalysis is not installed")
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
