"""Traces that others recorded on real GPUs; never part of the repository."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from diffprof.chrome_trace.events import EventTable
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.reader import read_trace
from diffprof.judge.timeline import replay
from diffprof.model.recording import Grade
from diffprof.scanning.importing import import_trace, record_trace
from diffprof.views.verdict import verdict
from tests.chrome_trace.hta import answered, answered_host_wait_us

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "gpu-traces"


@dataclass(frozen=True)
class Known:
    """What a trace holds, counted with json.load by category."""

    name: str
    kernels: int
    copies: int
    calls: int
    device: str
    nanoseconds: bool = False


TRACES = (
    Known("alexnet-a100", 79, 16, 361, "NVIDIA A100-PG509-200"),
    Known("simple-add-a100", 79, 16, 331, "NVIDIA A100-PG509-200"),
    Known("event-sync-a100", 4, 1, 12, "NVIDIA A100-PG509-200"),
    Known("triton-a100", 1, 0, 2, "NVIDIA A100-PG509-200", nanoseconds=True),
    Known("training-a100", 8568, 228, 24692, "NVIDIA A100-PG509-200"),
    Known("minitoy-mi250", 14, 2, 21, "AMD Radeon Graphics", nanoseconds=True),
    Known("sampled-no-flows", 1154, 40, 1204, "GPU 0"),
)
WAITING = ("event-sync-a100", "minitoy-mi250")
"""Those with one stream."""


def trace_file(name: str) -> Path:
    path = FOLDER / f"{name}.json.gz"
    if not path.exists():
        pytest.skip(f"real GPU traces are not here: {FOLDER}")
    return path


each = pytest.mark.parametrize("known", TRACES, ids=lambda known: known.name)


@each
def test_everything_is_read_and_linked(known: Known) -> None:
    trace = read_trace(trace_file(known.name))
    tables = trace.work.table
    assert int((tables == EventTable.KERNEL).sum()) == known.kernels
    assert int((tables == EventTable.COPY).sum()) == known.copies
    assert len(trace.calls) == known.calls
    assert (trace.truncated, trace.damaged, trace.unclosed) == (None, 0, 0)
    links = Links(trace)
    assert links.linked_share == 1.0
    calls = links.call_of_work
    assert (trace.work.ts >= trace.calls.ts[calls]).all()
    assert (links.op_of_work >= 0).mean() > 0.7


@pytest.mark.slow
@each
def test_holistic_trace_analysis_agrees(known: Known) -> None:
    path = trace_file(known.name)
    theirs = answered(known.name)
    trace = read_trace(path)
    recording = record_trace(path)
    idle = sum(gap.duration_us for gap in recording.gaps or () if gap.cause != "tail" and not gap.is_head)
    span = float(trace.work.end.max() - trace.work.ts.min())
    assert sum(k.device_us for k in recording.kernels or ()) == pytest.approx(theirs.work_us, rel=0.01)
    assert sum(k.count for k in recording.kernels or ()) == theirs.count
    assert span == pytest.approx(theirs.span_us, rel=0.01)
    assert idle == pytest.approx(theirs.idle_us, rel=0.01, abs=0.01)


@pytest.mark.parametrize("name", ["alexnet-a100", "simple-add-a100"])
def test_a_first_call_is_not_launch_bound(name: str) -> None:
    """A context of 25 to 30 s, 6 s in `cudaFree`, kernels loaded by their first launch: no launch is slow."""
    report = import_trace(trace_file(name))
    idle: Counter[str] = Counter()
    for gap in report.recording.gaps or ():
        idle[gap.cause] += round(gap.duration_us)
    assert idle["stall"] + idle["allocation"] > 0.98 * sum(idle.values())
    assert idle["launch"] < 0.001 * sum(idle.values())
    rules = {finding.rule for finding in report.findings}
    assert "KRN013" in rules
    assert "KRN001" not in rules
    assert "cudaDeviceGetStreamPriorityRange of aten::to" in verdict(report).why


@pytest.mark.parametrize("name", WAITING)
def test_what_holistic_trace_analysis_calls_host_wait_is_split(name: str) -> None:
    """On one stream: everything between two pieces of work that was not launched in time."""
    path = trace_file(name)
    host = ("launch", "python", "copy", "stall", "allocation", "cpu-op", "data", "sync")
    gaps = record_trace(path).gaps or ()
    ours = sum(gap.duration_us for gap in gaps if gap.cause in host and not gap.is_head)
    assert ours == pytest.approx(answered_host_wait_us(name), rel=0.01)


@pytest.mark.slow
@each
def test_the_replay_takes_as_long_as_the_run(known: Known) -> None:
    recording = record_trace(trace_file(known.name))
    assert recording.timeline is not None
    assert recording.device.name == known.device
    assert recording.device.grade is Grade.MEASURED
    run = replay(recording.timeline)
    window = recording.device.details["window_us"]
    assert run.total_us == pytest.approx(window, rel=0.05)


def test_waits_of_alexnet() -> None:
    """16 stream and 5 device synchronizes: each upload waits, and the benchmark synchronizes itself."""
    recording = record_trace(trace_file("alexnet-a100"))
    counts: Counter[str] = Counter()
    for row in recording.syncs or ():
        counts[row.kind] += row.count
    assert counts == {"host-to-device": 16, "synchronize": 5}
    copied = sum(row.bytes for row in recording.syncs or () if row.kind == "host-to-device")
    assert copied == 244_403_360


def test_waits_of_an_event() -> None:
    recording = record_trace(trace_file("event-sync-a100"))
    assert {(row.kind, row.op) for row in recording.syncs or ()} == {
        ("value-read", "aten::_local_scalar_dense"),
        ("synchronize", "cudaEventSynchronize"),
        ("synchronize", "cudaDeviceSynchronize"),
    }


@pytest.mark.slow
def test_waits_of_a_training_run() -> None:
    recording = record_trace(trace_file("training-a100"))
    waits = [row for row in recording.syncs or () if "cudaStreamSynchronize" in row.source]
    assert sum(row.count for row in waits) == 60
    assert {row.kind for row in waits} == {"value-read", "device-to-host"}


def test_hip_copies_block_by_themselves() -> None:
    recording = record_trace(trace_file("minitoy-mi250"))
    kinds = {row.kind: row.count for row in recording.syncs or ()}
    assert kinds == {"host-to-device": 2, "synchronize": 1}
    assert recording.device.details["runtime"] == "HIP"
    assert any(row.family == "gemm" and row.shape for row in recording.kernels or ())


def test_a_kernel_launched_through_the_driver() -> None:
    recording = record_trace(trace_file("triton-a100"))
    (row,) = recording.kernels or ()
    assert row.name == "triton_poi_fused_add_cos_sin_0"
    assert row.shape == "10x10, 10x10, 10x10"
    assert recording.timing is not None
    assert recording.timing.mode == "compiled"


def test_a_run_without_gpu_says_so() -> None:
    recording = record_trace(trace_file("cpu-only"))
    assert recording.gaps is None
    assert recording.timeline is None
    assert recording.timing is None
    assert "no GPU events in this trace" in recording.unseen[0].why
