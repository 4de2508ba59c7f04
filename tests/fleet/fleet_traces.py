"""Traces of a fleet, made by hand: a denoising loop with a read in each step, and ranks of one run."""

from __future__ import annotations

from pathlib import Path

from tests.chrome_trace.traces import Event, call, frame, kernel, launch, note, write

A100 = {
    "deviceProperties": [{"id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 85093777408}],
    "baseTimeNanoseconds": 1790857026000000000,
}
STEPS, STEP_US = 4, 1000.0
SCHEDULER = "diffusers/schedulers/scheduling_ddim.py(400): step"


def loop(path: Path, *, read_us: float = 100.0, hour: int = 0, slow: float = 1.0) -> Path:
    """A call of four steps of 1 ms: a kernel of 600 us, then a read that blocks the host for `read_us`.

    hour: after the first; slow: times the kernel's length.
    """
    events: list[Event] = []
    step_us = STEP_US * slow
    for step in range(STEPS):
        at = step * step_us
        events += [note(f"ProfilerStep#{step}", at, step_us - 1)]
        events += launch(2 * step, at + 5, at + 20, 600.0 * slow, name="mm")
        events += [
            frame(SCHEDULER, at + 600 * slow, read_us + 10),
            call("cudaMemcpyAsync", at + 602 * slow, 2, 2 * step + 1),
            kernel("Memcpy DtoH (Device -> Pageable)", at + 622 * slow, 2, 2 * step + 1, cat="gpu_memcpy"),
            call("cudaStreamSynchronize", at + 605 * slow, read_us),
        ]
    header = {**A100, "baseTimeNanoseconds": A100["baseTimeNanoseconds"] + hour * 3600 * 10**9}  # type: ignore[operator]
    return write(path, events, **header)


def rank(path: Path, number: int, size: int, *, late_us: float, steps: int = 3) -> Path:
    """One rank of a run: 500 us of computing and `late_us` more, then an all-reduce that ends on all ranks
    at 1,000 us of the step, 100 us of which run beside the computing."""
    events: list[Event] = []
    for step in range(steps):
        at = step * 1200.0
        busy = 500 + late_us
        events += [note(f"ProfilerStep#{step}", at, 1150)]
        events += launch(10 * step, at + 5, at + 20, busy, name="mm")
        begin = at + 20 + busy - 100
        events += [call("cudaLaunchKernel", at + 10, 3, 10 * step + 1)]
        name = "ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevComm*, unsigned long)"
        events += [kernel(name, begin, at + 1000 - begin, 10 * step + 1, stream=20)]
    distributed = {"backend": "nccl", "rank": number, "world_size": size}
    return write(path, events, **A100, distributedInfo=distributed)
