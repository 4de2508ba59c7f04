"""For each kernel rule, a recording that fires exactly it and one that is its mended form."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from diffprof.model.recording import DeviceInfo, GapRow, Grade, LineRow, MemoryUse, Recording, Timeline
from tests.analyzers.kernels.made_timeline import MadeTimeline, fed
from tests.builders import make_recording, make_site

A100 = DeviceInfo(
    spec="sim:a100-80gb",
    kind="sim",
    name="NVIDIA A100 SXM4 80GB",
    grade=Grade.SIMULATED,
    details={"peak_tflops": {"fp32": 19.5, "tf32": 156.0, "bf16": 312.0}, "bandwidth_gb_s": 2039.0},
)


def recorded(made: MadeTimeline, **timeline: Any) -> Recording:
    return make_recording(device=A100, timeline=made.timeline(**timeline))


def remembered(by_step: tuple[int, ...], peak: int = 9 << 30, timeline: Timeline | None = None) -> Recording:
    return make_recording(
        timeline=timeline,
        device=A100,
        memory=MemoryUse(
            grade=Grade.SIMULATED,
            weights_bytes=7 << 30,
            peak_bytes=peak,
            capacity_bytes=80 << 30,
            by_step=by_step,
        ),
    )


def with_a_slow_start(by_step: tuple[int, ...], peak: int = 9 << 30, launches: int = 300) -> Recording:
    """Short kernels that the host issues every 100 us, then a healthy loop of 80 ms."""
    loop = fed().timeline()
    timeline = replace(
        loop,
        phases=tuple(
            replace(span, first=span.first + launches, last=span.last + launches) for span in loop.phases
        ),
        kind=(*[1] * launches, *loop.kind),
        module=(*[-1] * launches, *loop.module),
        host_us=(*[100.0] * launches, *loop.host_us),
        device_us=(*[5.0] * launches, *loop.device_us),
        stream=(*[0] * launches, *loop.stream),
        sync=(*[-1] * launches, *loop.sync),
    )
    return remembered(by_step, peak, timeline)


def profiled(*gaps: GapRow) -> Recording:
    """A measured call that keeps the device fed, but for these gaps."""
    device = DeviceInfo(spec="cuda", kind="cuda", name="NVIDIA A100", grade=Grade.MEASURED)
    return make_recording(device=device, timeline=fed().timeline(grade=Grade.MEASURED), gaps=gaps)


def idle(cause: str, ms: float, during: str, *, head: bool = False, step: int | None = 1) -> GapRow:
    return GapRow(
        cause=cause,
        start_us=100.0,
        duration_us=ms * 1e3,
        phase="encode" if head else "denoise",
        step=None if head else step,
        after=None if head else "linear",
        before="linear",
        during=during,
    )


def by_line(made: MadeTimeline, *rows: LineRow) -> Recording:
    return replace(recorded(made), bursts=rows)


MASK = LineRow(site=make_site("mask.py", 130, function="masked"), count=1200, device_us=14_400.0)
"""300 rows of a mask in each of four steps."""

FLAT = (7 << 30,) * 4
MB = 1024**2

BAD: dict[str, Recording] = {
    "KRN001": recorded(MadeTimeline().launch("add", 5.0, 40.0, times=50)),
    "KRN002": recorded(
        MadeTimeline().launch("embed", 1.0, 300.0).launch("linear", 400.0, times=10, family="gemm").wait()
    ),
    "KRN003": recorded(fed().launch("solve", 1500.0, part="scheduler")),
    "KRN004": recorded(
        fed()
        .launch("softmax", 900.0, family="reduction")
        .launch("bmm", 700.0, family="gemm", flops=4e10)
        .launch("baddbmm", 700.0, family="gemm", flops=4e10)
    ),
    "KRN005": recorded(fed().launch("sgemm", 900.0, family="gemm", dtype="float32", flops=1e10, bytes=1e6)),
    "KRN006": recorded(
        fed().launch("nchwToNhwc", 500.0, family="copy").launch("nhwcToNchw", 500.0, family="copy")
    ),
    "KRN007": recorded(fed().launch("cast_float16_float32", 600.0, family="copy")),
    "KRN008": recorded(fed().launch("Memcpy HtoD (Pageable -> Device)", 150.0, family="copy")),
    "KRN009": remembered(tuple((7 << 30) + n * 40 * MB for n in range(4))),
    "KRN010": recorded(MadeTimeline().launch("linear", 400.0, times=10, family="gemm").python(6000.0)),
    "KRN011": with_a_slow_start(FLAT),
    "KRN012": recorded(fed(), mode="compiled", eager_kernels=210),
    "KRN013": profiled(
        idle("stall", 900.0, "cudaStreamIsCapturing of aten::to", head=True),
        idle("allocation", 300.0, "cudaMalloc of aten::conv2d", step=0),
    ),
    "KRN014": profiled(idle("cpu-op", 30.0, "aten::randn"), idle("data", 10.0, "")),
    "KRN015": by_line(fed().launch("fill", 12.0, times=300), MASK),
}

GOOD: dict[str, Recording] = {
    "KRN001": recorded(fed()),
    # The wait is there, but the queue is full again before the device runs dry.
    "KRN002": recorded(MadeTimeline().launch("linear", 20_000.0, family="gemm").wait(host_us=0.0)),
    "KRN003": recorded(fed().launch("solve", 400.0, part="scheduler")),
    "KRN004": recorded(fed().launch("flash_attention", 900.0, family="attention")),
    "KRN005": recorded(fed().launch("sgemm", 900.0, family="gemm", dtype="tf32", flops=1e11)),
    "KRN006": recorded(fed().launch("nchwToNhwc", 50.0, family="copy")),
    "KRN007": recorded(fed().launch("cast_float16_float32", 60.0, family="copy")),
    "KRN008": recorded(fed().launch("Memcpy HtoD (Pinned -> Device)", 150.0, family="copy")),
    "KRN009": remembered(FLAT),
    "KRN010": recorded(fed().python(300.0)),
    "KRN011": with_a_slow_start(FLAT, peak=60 << 30),
    "KRN012": recorded(fed(), mode="compiled", eager_kernels=900),
    "KRN013": profiled(idle("stall", 1.2, "cudaLaunchKernel of aten::conv2d"), idle("sync", 900.0, "")),
    "KRN014": profiled(idle("cpu-op", 0.2, "aten::randn"), idle("cpu-op", 900.0, "aten::randn", head=True)),
    "KRN015": by_line(fed().launch("fill", 90.0)),
}
