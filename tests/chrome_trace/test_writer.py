"""A written timeline reads back as what it was, here and in HolisticTraceAnalysis."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffprof.chrome_trace.events import MODULE_PREFIX
from diffprof.chrome_trace.op_lines import HOST, ORIGIN_US
from diffprof.chrome_trace.reader import read_trace
from diffprof.chrome_trace.writer import write_trace
from diffprof.judge.block_times import block_times
from diffprof.judge.timeline import replay
from diffprof.model.errors import DiffprofError
from diffprof.model.recording import Frame, Grade, KernelKind, MemoryUse, PhaseSpan, Site, SyncRow, Timeline
from diffprof.scanning.importing import record_trace
from tests.chrome_trace.hta import WRITTEN, answered

KINDS = (
    KernelKind(name="gemm_a", op="aten::addmm", family="gemm", shape="2x64x64, 64x64", dtype="float16"),
    KernelKind(name="elementwise", op="aten::mul", family="pointwise"),
    KernelKind(name="read", op="aten::_local_scalar_dense", family="copy", bytes=4.0),
    KernelKind(name="set", op="aten::zero_", family="memset", bytes=64.0),
)
SITE = Site(
    file="diffusers/schedulers/scheduling_x.py",
    line=33,
    function="step",
    chain=(
        Frame(file="diffusers/pipelines/pipeline_y.py", line=900, function="__call__"),
        Frame(file="run.py", line=3, function="<module>"),
    ),
)
READ = SyncRow(
    kind="value-read",
    op="aten::_local_scalar_dense",
    reason="",
    source="",
    site=SITE,
    phase="denoise",
    part="scheduler",
    in_loop=True,
    count=4,
)


class MadeTimeline:
    """Builds a timeline event by event."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float, int, int]] = []
        self.phases: list[PhaseSpan] = []

    def add(self, kind: int, host: float, device: float, *, sync: int = -1, module: int = 0) -> None:
        self.rows.append((kind, host, device, sync, module))

    def phase(self, name: str, first: int, **more: Any) -> None:
        self.phases.append(PhaseSpan(name=name, first=first, last=len(self.rows), **more))

    def timeline(self, **more: Any) -> Timeline:
        kind, host, device, sync, module = zip(*self.rows, strict=True) if self.rows else [()] * 5
        return Timeline(
            grade=Grade.SIMULATED,
            kinds=KINDS,
            modules=("", "unet.a", "unet.b"),
            phases=tuple(self.phases),
            kind=kind,
            module=module,
            host_us=host,
            device_us=device,
            stream=(0,) * len(kind),
            sync=sync,
            launch_latency_us=4.0,
            sync_latency_us=6.0,
            **more,
        )


def call(steps: int = 4, launches: int = 200) -> Timeline:
    """Preparation, then steps with Python between them, a denoiser, and a scheduler that reads a value."""
    rng = random.Random(1)
    made = MadeTimeline()
    for _ in range(5):
        made.add(1, 8.0, 3.0)
    made.phase("prepare", 0)
    for step in range(steps):
        first = len(made.rows)
        made.add(-1, 150.0, 0.0)
        for i in range(launches):
            made.add(i % 2, rng.uniform(4, 12), rng.uniform(1, 40), module=1 + i * 2 // launches)
        middle = len(made.rows)
        made.phase("denoise", first, step=step, part="denoiser", block="denoise.predict")
        made.add(2, 10, 2, sync=0)
        made.add(3, 5, 3)
        made.phase("denoise", middle, step=step, part="scheduler")
        made.phase("denoise", first, step=step)
    return made.timeline()


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_what_is_written_reads_back(tmp_path: Path, name: str) -> None:
    timeline = call()
    run = replay(timeline)
    path = write_trace(
        tmp_path / name,
        timeline,
        [READ],
        device_name="NVIDIA A100",
        properties={"totalGlobalMem": 80 << 30},
        metadata={"target": "sdxl"},
        memory=MemoryUse(
            grade=Grade.SIMULATED, by_step=(10, 20, 30, 40), weights_bytes=5, peak_bytes=70, peak_step=1
        ),
    )
    recording = record_trace(path)
    assert recording.device.grade is Grade.SIMULATED
    assert recording.device.kind == "sim"
    assert recording.device.name == "NVIDIA A100"
    assert recording.device.memory_bytes == 80 << 30
    assert recording.target.pipeline == "sdxl"
    assert recording.target.steps == 4
    assert recording.unseen == ()
    (row,) = recording.syncs or ()
    assert (row.kind, row.op, row.count, row.per_step, row.part) == (READ.kind, READ.op, 4, 1.0, "scheduler")
    assert row.site == SITE
    assert recording.kernels is not None
    assert sum(k.count for k in recording.kernels) == sum(us > 0 for us in timeline.device_us)
    assert sum(k.device_us for k in recording.kernels) == pytest.approx(sum(timeline.device_us), rel=0.01)
    assert {k.module for k in recording.kernels} == {None, "unet.a", "unet.b"}
    assert {(k.op, k.shape, k.dtype) for k in recording.kernels} >= {
        ("aten::addmm", "2x64x64, 64x64", "float16")
    }
    assert recording.memory is not None
    assert recording.memory.by_step == (10, 20, 30, 40)
    assert recording.memory.peak_bytes == 70
    assert recording.timeline is not None
    again = replay(recording.timeline)
    assert again.total_us == pytest.approx(run.total_us, rel=0.005)
    assert sum(again.blocked_us.values()) == pytest.approx(sum(run.blocked_us.values()), rel=0.005)
    spans = {(p.name, p.step, p.part, p.block): (p.first, p.last) for p in recording.timeline.phases}
    assert set(spans) == {(p.name, p.step, p.part, p.block) for p in timeline.phases}
    (block,), (before,) = block_times(recording.timeline), block_times(timeline)
    assert (block.name, block.waits) == (before.name, before.waits) == ("denoise.predict", 0)
    assert block.elapsed_ms == pytest.approx(before.elapsed_ms, rel=0.01)
    assert block.device_ms == pytest.approx(before.device_ms, rel=0.01)


def test_idle_time_and_its_causes_read_back(tmp_path: Path) -> None:
    timeline = call()
    run = replay(timeline)
    recording = record_trace(write_trace(tmp_path / "t.json", timeline, [READ], device_name="A100"))
    idle = sum(gap.duration_us for gap in recording.gaps or () if gap.cause != "tail" and not gap.is_head)
    first = min(us for us in run.device_start if us >= 0)
    assert idle == pytest.approx(max(run.device_end) - first - run.device_busy_us, rel=0.01)
    python = sum(gap.duration_us for gap in recording.gaps or () if gap.cause == "python")
    assert python == pytest.approx(4 * 150, rel=0.1)


events = st.lists(
    st.tuples(
        st.sampled_from([0, 1, -1]),
        st.floats(0, 60).map(lambda x: round(x, 3)),
        st.floats(0.5, 90).map(lambda x: round(x, 3)),
        st.sampled_from([-1, -1, -1, 0]),
    ),
    max_size=30,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events)
def test_kernels_of_one_stream_never_exceed_its_span(
    tmp_path: Path, rows: list[tuple[int, float, float, int]]
) -> None:
    made = MadeTimeline()
    for kind, host, device, sync in rows:
        made.add(kind, host, device if kind >= 0 else 0.0, sync=sync)
    path = write_trace(tmp_path / "t.json", made.timeline(), [READ], device_name="A100")
    trace = read_trace(path)
    assert trace.truncated is None
    assert trace.damaged == 0
    work = trace.work
    assert len(work) == sum(kind >= 0 for kind, *_ in rows)
    if len(work):
        order = np.lexsort((work.end, work.ts))
        assert (work.ts[order][1:] >= work.end[order][:-1]).all()
        assert work.dur.sum() <= work.end.max() - work.ts.min()


def test_every_launch_has_its_kernel_and_arrows(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t.json", call(steps=1, launches=9), [READ], device_name="A100")
    written = json.loads(path.read_text())["traceEvents"]
    launches = {e["args"]["correlation"] for e in written if e.get("cat") == "cuda_runtime"}
    work = [e for e in written if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    assert {e["cat"] for e in work} == {"kernel", "gpu_memcpy", "gpu_memset"}
    assert {e["args"]["correlation"] for e in work} <= launches
    for ph in "sf":
        assert {e["id"] for e in written if e.get("cat") == "ac2g" and e["ph"] == ph} == {
            e["args"]["correlation"] for e in work
        }


def test_host_spans_nest_exactly(tmp_path: Path) -> None:
    """TensorBoard's plugin drops a thread's events when one ends a rounding error after its parent."""
    path = write_trace(tmp_path / "t.json", call(), [READ], device_name="A100")
    written = json.loads(path.read_text())["traceEvents"]
    host = [e for e in written if e["ph"] == "X" and e["tid"] == HOST]
    open_ends: list[float] = []
    for event in sorted(host, key=lambda e: (e["ts"], -e["dur"])):
        while open_ends and open_ends[-1] <= event["ts"]:
            open_ends.pop()
        end = event["ts"] + event["dur"]
        assert not open_ends or end <= open_ends[-1]
        open_ends.append(end)


def test_modules_nest_in_the_modules_that_called_them(tmp_path: Path) -> None:
    made = MadeTimeline()
    for module in (1, 1, 2, 0, 1):
        made.add(0, 8.0, 3.0, module=module)
    timeline = msgspec.structs.replace(
        made.timeline(), modules=("unet", "unet.blocks.0.attn.to_q", "unet.blocks.0.attn.to_k")
    )
    written = json.loads(write_trace(tmp_path / "t.json", timeline, device_name="A100").read_text())
    spans = [
        (event["name"].removeprefix(MODULE_PREFIX), event["ts"] - ORIGIN_US, event["dur"])
        for event in written["traceEvents"]
        if event.get("name", "").startswith(MODULE_PREFIX)
    ]
    assert spans == [
        ("unet", 0, 40),
        ("unet.blocks.0", 0, 24),
        ("unet.blocks.0.attn", 0, 24),
        ("unet.blocks.0.attn.to_q", 0, 16),
        ("unet.blocks.0.attn.to_k", 16, 8),
        ("unet.blocks.0", 32, 8),
        ("unet.blocks.0.attn", 32, 8),
        ("unet.blocks.0.attn.to_q", 32, 8),
    ]


def test_a_timeline_without_events(tmp_path: Path) -> None:
    path = write_trace(tmp_path / "t.json", MadeTimeline().timeline(), device_name="A100")
    assert record_trace(path).kernels is None


def test_a_folder_that_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffprofError, match="could not be written") as caught:
        write_trace(tmp_path / "file" / "t.json", call(), device_name="A100")
    assert caught.value.hint


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    write_trace(tmp_path / "t.json.gz", call(), device_name="A100")
    assert os.listdir(tmp_path) == ["t.json.gz"]


def long_call() -> Timeline:
    """Of more lines than 16 bits can number."""
    return call(steps=30)


def written(path: Path) -> Path:
    """What HolisticTraceAnalysis was asked about."""
    return write_trace(path, long_call(), [READ], device_name="A100")


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_holistic_trace_analysis_agrees(tmp_path: Path, name: str) -> None:
    theirs = answered(WRITTEN)
    recording = record_trace(written(tmp_path / name))
    busy = recording.device.details["busy_us"]
    idle = sum(gap.duration_us for gap in recording.gaps or () if gap.cause != "tail" and not gap.is_head)
    assert theirs.idle_us == pytest.approx(idle, rel=0.01)
    assert theirs.span_us - theirs.idle_us == pytest.approx(busy, rel=0.01)
    run = replay(long_call())
    assert theirs.span_us - theirs.idle_us == pytest.approx(run.device_busy_us, rel=0.01)
