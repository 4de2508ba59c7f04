"""What counts as the host's wait, whichever runtime's calls it stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diffprof.chrome_trace.events import CallKind, call_kind, wait_scope
from diffprof.judge.figures import call_ms, device_busy
from diffprof.judge.judging import make_report
from diffprof.judge.pricing import HIDDEN, UNEXPLAINED
from diffprof.judge.timeline import replay
from diffprof.model.recording import Recording
from diffprof.scanning.importing import record_trace
from diffprof.views import render
from diffprof.views.times import call_table
from diffprof.views.verdict import verdict
from tests.chrome_trace.traces import Event, call, kernel, launch, op, span, write


def recorded(tmp_path: Path, events: list[Event], **header: Any) -> Recording:
    return record_trace(write(tmp_path / "t.json", events, **header))


def blocked_us(recording: Recording) -> float:
    return sum(row.blocked_us or 0.0 for row in recording.syncs or ())


def download(*, synchronized: bool = True) -> list[Event]:
    """Two kernels with 40 ms between them, which nothing explains; `x.cpu()` waits for both: 100 ms."""
    events = [
        *launch(1, 100, 120, 50_000),
        *launch(2, 110, 90_000, 10_000),
        op("aten::to", 120, 100_100),
        op("aten::copy_", 125, 100_090),
        call("cudaMemcpyAsync", 130, 100_000, 3),
        kernel("Memcpy DtoH (Device -> Pageable)", 100_005, 100, 3, cat="gpu_memcpy"),
        *launch(5, 101_000, 101_020, 20_000),
        call("cudaDeviceSynchronize", 101_010, 20_020, 6),
    ]
    return [*events, call("cudaStreamSynchronize", 100_140, 10, 4)] if synchronized else events


@pytest.mark.parametrize("synchronized", [True, False])
def test_a_pageable_download_keeps_the_host_until_it_is_done(tmp_path: Path, synchronized: bool) -> None:
    recording = recorded(tmp_path, download(synchronized=synchronized))
    row, last = recording.syncs or ()
    assert (row.kind, row.count, row.blocked_us) == ("device-to-host", 1, 100_000 + 10 * synchronized)
    assert (last.kind, last.blocked_us) == ("synchronize", 20_020)
    # The second kernel was launched long before the device ran dry; the copy waited for it; then the host had
    # nothing queued.
    assert [(gap.cause, gap.sync) for gap in recording.gaps or ()] == [
        ("unknown", None),
        ("unknown", None),
        ("sync", 0),
        ("tail", None),
    ], "the last synchronize returns after all work"
    found = {finding.rule: finding for finding in make_report(recording).findings}
    assert found["SYN004"].blocked_ms == pytest.approx(100, rel=0.001)


def test_the_replay_waits_as_long_as_the_call_did(tmp_path: Path) -> None:
    recording = recorded(tmp_path, download())
    assert recording.timeline is not None
    run = replay(recording.timeline)
    assert run.total_us == pytest.approx(recording.device.details["window_us"], rel=0.01)
    assert run.blocked_us[0] == pytest.approx(100_010, rel=0.001)


def standing(name: str, *, after: int = 100, category: str = "cuda_runtime") -> list[Event]:
    """The host stands 460 ms in one call while nothing recorded runs, then launches."""
    return [
        *launch(9, 12, 30, 10),
        op("aten::to", 95, 460_100),
        op("aten::copy_", 97, 460_090),
        {**call(name, 100, 460_000, 1), "cat": category},
        kernel("Memcpy DtoH (Device -> Host)", 460_080, 5, 1, cat="gpu_memcpy"),
        *(e for n in range(after) for e in launch(10 + n, 460_300 + 20 * n, 460_330 + 100 * n, 100)),
    ]


@pytest.mark.parametrize("name", ["hipMemcpyWithStream", "cudaMemcpy", "cuMemcpyDtoH_v2", "aclrtMemcpy"])
def test_a_wait_that_nothing_recorded_explains_is_measured(tmp_path: Path, name: str) -> None:
    recording = recorded(tmp_path, standing(name))
    (row,) = recording.syncs or ()
    assert (row.kind, row.blocked_us) == ("device-to-host", 460_000)
    assert max(recording.gaps or (), key=lambda gap: gap.duration_us).cause == "sync"
    report = make_report(recording)
    found = {finding.rule: finding for finding in report.findings}
    assert found["SYN004"].blocked_ms == pytest.approx(460)
    assert UNEXPLAINED in (found["SYN004"].cost_note or "")
    assert HIDDEN not in (found["SYN004"].cost_note or "")
    assert found["KRN002"].blocked_ms == pytest.approx(460)
    words = verdict(report)
    assert "460 ms" in f"{words.headline} {words.why}"


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("cuda_runtime", "cudaStreamSynchronize"),
        ("cuda_runtime", "hipStreamSynchronize"),
        ("xpu_driver", "zeEventHostSynchronize"),
        ("xpu_runtime", "urQueueFinish"),
        ("privateuse1_runtime", "aclrtSynchronizeStream"),
        ("npu_runtime", "AscendCL@aclrtSynchronizeDevice"),
        ("mtia_runtime", "synchronizeStream"),
        ("newchip_runtime", "ncrtStreamSynchronise"),
    ],
)
@pytest.mark.parametrize("with_device", [True, False])
def test_every_runtime_s_wait_counts(tmp_path: Path, category: str, name: str, with_device: bool) -> None:
    events = [
        {**event, "cat": category if event["cat"] == "cuda_runtime" else event["cat"]}
        for event in launch(1, 5, 9, 700)
    ]
    if not with_device:
        events = [event for event in events if event["cat"] != "kernel"]
    recording = recorded(tmp_path, [*events, span(category, name, 20, 690)])
    (row,) = recording.syncs or ()
    assert (row.kind, row.blocked_us) == ("synchronize", 690)
    assert recording.device.kind != "cpu"


def test_an_upload_waits_from_its_copy_to_its_synchronize(tmp_path: Path) -> None:
    """On ROCm the same upload is one call; on CUDA it is two."""
    upload = [
        op("aten::copy_", 10, 900),
        call("cudaMemcpyAsync", 20, 800, 1),
        kernel("Memcpy HtoD (Pageable -> Device)", 30, 810, 1, cat="gpu_memcpy"),
        call("cudaStreamSynchronize", 822, 25, 2),
    ]
    (row,) = recorded(tmp_path, upload).syncs or ()
    assert (row.kind, row.count, row.blocked_us) == ("host-to-device", 1, 825)
    assert "cudaMemcpyAsync and cudaStreamSynchronize" in row.reason
    # Without the synchronize it is only staged: the host copies, and waits for nothing.
    recording = recorded(tmp_path, upload[:-1])
    (row,) = recording.syncs or ()
    assert (row.kind, row.blocked_us) == ("staged-copy", 0.0)
    assert "800 us of the CPU's time" in row.reason
    assert recording.timeline is not None
    assert set(recording.timeline.sync) == {-1}


@pytest.mark.parametrize(
    ("earlier", "stream", "kind", "blocked"),
    [
        (600, 7, "host-to-device", 700),  # done within the call: the driver waited for the stream
        (900, 7, "staged-copy", 0),  # still at work when the call was back
        (600, 8, "staged-copy", 0),  # another stream's
    ],
)
def test_an_upload_from_pageable_memory_waits_where_its_stream_held_it_up(
    tmp_path: Path, earlier: float, stream: int, kind: str, blocked: float
) -> None:
    """CUDA's reference: the driver may synchronize with the stream before it stages the data."""
    events = [
        op("aten::mm", 5, 8),
        call("cudaLaunchKernel", 6, 5, 1),
        kernel("gemm", 12, earlier, 1, stream=stream),
        op("aten::copy_", 10, 900),
        call("cudaMemcpyAsync", 20, 700, 2),
        kernel("Memcpy HtoD (Pageable -> Device)", 950, 20, 2, cat="gpu_memcpy"),
    ]
    (row,) = recorded(tmp_path, events).syncs or ()
    assert (row.kind, row.blocked_us) == (kind, blocked)


@pytest.mark.parametrize(("stood", "told"), [(4900, True), (190, False)])
def test_a_copy_call_that_takes_long_is_what_the_device_idles_for(
    tmp_path: Path, stood: int, told: bool
) -> None:
    """It waits for nothing that was launched, yet issues nothing either."""
    events = [
        *launch(1, 5, 9, 100),
        op("aten::copy_", 20, stood + 10),
        call("cudaMemcpyAsync", 22, stood, 2),
        kernel("Memcpy DtoD (Device -> Device)", 110, 10, 2, cat="gpu_memcpy"),
        *launch(3, stood + 200, stood + 210, 100),
    ]
    recording = recorded(tmp_path, events)
    assert recording.syncs == ()
    found = {finding.rule: finding for finding in make_report(recording).findings}
    assert ("KRN014" in found) is told
    if told:
        assert found["KRN014"].saves_ms == pytest.approx((stood + 210 - 120) / 1e3)
        assert "cudaMemcpyAsync of aten::copy_" in found["KRN014"].message


def test_a_copy_to_pinned_memory_is_asynchronous(tmp_path: Path) -> None:
    events = [
        op("aten::copy_", 10, 900),
        call("cudaMemcpyAsync", 20, 8, 1),
        kernel("Memcpy DtoH (Device -> Pinned)", 30, 700, 1, cat="gpu_memcpy"),
        call("cudaStreamSynchronize", 40, 695, 2),
    ]
    assert blocked_us(recorded(tmp_path, events)) == 695
    assert recorded(tmp_path, events[:-1]).syncs == ()


def test_the_driver_s_call_in_the_runtime_s_is_the_same_wait(tmp_path: Path) -> None:
    inner = {**call("cuStreamSynchronize", 21, 690), "cat": "cuda_driver"}
    recording = recorded(tmp_path, [*launch(1, 5, 9, 700), call("cudaStreamSynchronize", 20, 695), inner])
    assert [(row.count, row.blocked_us) for row in recording.syncs or ()] == [(1, 695)]


def test_a_wait_drawn_on_the_device_too_counts_once(tmp_path: Path) -> None:
    """As MTIA's profiler has it."""
    host = span("mtia_runtime", "synchronizeStream", 20, 690, device=17, stream_id=102)
    device = span("mtia_runtime", "synchronize", 21, 689, pid=17, tid=3, device=17, stream_id=102)
    work = [
        span("mtia_ccp_events", name, 15, 600, pid=17, tid=3, stream=1)
        for name in ("fc-dtype_Float", "event_wait")
    ]
    recording = recorded(tmp_path, [op("aten::mm", 2, 10), host, device, *work])
    assert blocked_us(recording) == 690
    assert [row.name for row in recording.kernels or ()] == ["fc-dtype_Float"]


@pytest.mark.parametrize(
    "name", ["cudaStreamWaitEvent", "urEnqueueEventsWait", "aclrtStreamWaitEvent", "cudaEventQuery"]
)
def test_what_makes_the_device_wait_does_not_keep_the_host(name: str) -> None:
    assert not call_kind(name).blocks


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("aclrtSynchronizeStreamWithTimeout", "stream"),
        ("zeCommandQueueSynchronize", "stream"),
        ("hipEventSynchronize", "event"),
        ("synchronize", "device"),
    ],
)
def test_what_is_waited_for(name: str, scope: str) -> None:
    assert (call_kind(name), wait_scope(name)) == (CallKind.WAIT, scope)


@pytest.mark.parametrize(
    ("category", "kind", "name"),
    [
        ("mtia_runtime", "mtia", "MTIA device 0"),
        ("xpu_runtime", "xpu", "XPU device 0"),
        ("newchip_runtime", "newchip", "newchip device 0"),
        ("cuda_runtime", "cuda", "device 0"),
    ],
)
def test_an_accelerator_is_called_by_its_runtime(tmp_path: Path, category: str, kind: str, name: str) -> None:
    events = [
        {**event, "cat": category} if event["cat"] == "cuda_runtime" else event
        for event in launch(1, 5, 9, 70)
    ]
    device = recorded(tmp_path, events).device
    assert (device.kind, device.name) == (kind, name)
    without = recorded(tmp_path, [event for event in events if event["cat"] != "kernel"])
    assert without.device.kind == kind
    assert not any("recorded on the CPU" in gap.why for gap in without.unseen)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (call("cudaGraphInstantiate", 300, 20), "captured a CUDA graph"),
        (call("hipStreamEndCapture", 300, 20), "captured a CUDA graph"),
        (op("_compile.compile_inner (dynamo_timed)", 300, 20), "compiled"),
        (op("CachingAutotuner.benchmark_all_configs", 300, 20), "tuned kernels"),
    ],
)
def test_a_warm_up_is_recognized(tmp_path: Path, extra: Event, words: str) -> None:
    report = make_report(recorded(tmp_path, [*launch(1, 5, 9, 70), extra]))
    found = {finding.rule: finding for finding in report.findings}
    assert words in found["KRN013"].message
    plain = make_report(recorded(tmp_path, [*launch(1, 5, 9, 70), *launch(2, 60, 79, 70)]))
    assert "KRN013" not in {finding.rule for finding in plain.findings}


def test_a_trace_s_length_and_busy_share_are_the_same_everywhere(tmp_path: Path) -> None:
    """A kernel whose launch is not in the trace is in the device's time, and in no replay."""
    recording = recorded(
        tmp_path, [*launch(1, 5, 100, 100), kernel("orphan", 300, 100), *launch(3, 380, 400, 100)]
    )
    report = make_report(recording)
    assert "75 %" in verdict(report).headline
    assert (call_ms(recording), device_busy(recording)) == (0.4, 0.75)
    table, page = call_table(recording), render(report, "html")
    assert table is not None
    assert table.rows[0] == ("length of the trace, eager", "0.0004 s", "measured")
    assert table.rows[1][:2] == ("device busy", "75 %")
    assert "<dt>trace</dt><dd>0.4 ms" in page
    assert "75 %" in page
