"""Whole scans of factories that call what only CUDA has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without CUDA")

Write = Callable[[str, str], Path]

HEAD = """
        import torch
        from tiny_pipeline import tiny

        def make():
            pipe = tiny().to("cuda")
            forward, state = pipe.unet.forward, {}

            def denoise(sample, timestep, **more):
"""
TAIL = """
                return forward(sample, timestep, **more)

            pipe.unet.forward = denoise
            return pipe, dict(num_inference_steps=3, output_type="np")
"""


@pytest.fixture
def scanned(tiny: Path, write: Write) -> Callable[[str], Report]:
    """The report on a pipeline whose denoiser begins with these lines."""

    def scanned(lines: str) -> Report:
        indented = "".join(f"{' ' * 16}{line}\n" for line in lines.splitlines())
        file = write("make.py", HEAD + indented + TAIL)
        return scan_target(f"{file}:make", device="sim", analyzers=("syncs", "kernels"))

    return scanned


def in_make(report: Report) -> list[Any]:
    return [row for row in report.recording.syncs if row.site.file.endswith("make.py")]


POLLS = {
    "an event": "event = torch.cuda.Event()\nevent.record()\nwhile not event.query():\n    pass",
    "a stream": "stream = torch.cuda.current_stream()\nwhile not stream.query():\n    torch.randn",
    "a generic event, by a function": (
        "event = torch.Event('cuda')\nevent.record()\ndone = lambda: event.query()\nwhile True:\n"
        "    if done():\n        break"
    ),
}


@pytest.mark.parametrize("lines", POLLS.values(), ids=POLLS)
def test_a_loop_that_asks_until_the_device_is_there_is_a_wait(scanned: Any, lines: str) -> None:
    report = scanned("sample = sample * 1.0\n" + lines)
    (row,) = in_make(report)
    assert row.in_loop
    assert (row.kind, row.count, row.per_step) == ("synchronize", 3, 1.0)
    assert row.op.endswith(".query")
    assert "a loop asks until the device has come" in row.reason
    assert any(f.rule == "SYN009" for f in report.findings)


ASKS = {
    "once a step": "event = state.setdefault('event', torch.cuda.Event())\nevent.query()\nevent.record()",
    "with work in between": (
        "event = torch.cuda.Event()\nevent.record()\nwhile not event.query():\n    sample = sample * 1.0"
    ),
    "after a wait": (
        "sample.sum().item()\nevent = torch.cuda.Event()\nevent.record()\nwhile not event.query():\n    pass"
    ),
    "of nothing": "event = torch.cuda.Event()\nwhile not event.query():\n    pass",
}


@pytest.mark.parametrize("lines", ASKS.values(), ids=ASKS)
def test_to_ask_is_no_wait(scanned: Any, lines: str) -> None:
    report = scanned("sample = sample * 1.0\n" + lines)
    assert not [row for row in in_make(report) if row.op.endswith(".query")]


def test_giving_memory_back_every_step_is_a_finding(scanned: Any) -> None:
    report = scanned("torch.cuda.empty_cache()")
    (row,) = in_make(report)
    assert row.in_loop
    assert (row.op, row.count, row.per_step) == ("torch.cuda.empty_cache", 3, 1.0)
    (finding,) = [f for f in report.findings if f.rule == "SYN009"]
    assert "cudaFree waits" in finding.message
    assert "memory that PyTorch keeps is used again" in finding.advice


def test_housekeeping_and_streams_do_not_wait(scanned: Any) -> None:
    report = scanned(
        "torch.cuda.set_sync_debug_mode('warn')\n"
        "torch.cuda.set_per_process_memory_fraction(0.9)\n"
        "torch.cuda.memory_summary()\n"
        "torch.cuda.cudart().cudaProfilerStart()\n"
        "side = torch.cuda.Stream()\n"
        "with torch.cuda.stream(side):\n"
        "    side.wait_stream(torch.cuda.current_stream())\n"
        "    sample.record_stream(side)"
    )
    assert in_make(report) == []


GRAPHED = """
if not state:
    state.update(x=sample.clone(), t=torch.ones(1, device="cuda"), graph=torch.cuda.CUDAGraph())
    with torch.cuda.graph(state["graph"]):
        state["out"] = forward(state["x"], state["t"], **more)
        print(state["x"].sum().item())
state["x"].copy_(sample)
state["graph"].replay()
return state["out"]
"""


@pytest.mark.slow
def test_a_graph_captured_by_hand_is_seen_once_and_named(scanned: Any) -> None:
    report = scanned(GRAPHED.strip())
    rows = {row.op: row for row in in_make(report)}
    assert set(rows) == {"torch.cuda.graph", "aten::_local_scalar_dense"}
    assert all(row.count == 1 for row in rows.values())
    gaps = [gap for gap in report.recording.unseen if "CUDA graph" in gap.what]
    assert [gap.what for gap in gaps] == [
        "a CUDA graph, captured once and replayed 3 times",
        "aten::_local_scalar_dense inside a CUDA graph's capture",
    ]
    assert "may not wait" in gaps[1].why
    assert gaps[1].site.line == rows["aten::_local_scalar_dense"].site.line
    (capture,) = [f for f in report.findings if f.rule == "SYN009"]
    assert "a capture is paid once" in capture.advice
