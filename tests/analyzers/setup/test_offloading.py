"""Weights that are moved in a call: what is told of them is what the call is like without."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from diffprof.corpus import CASES
from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.targets.factory import FunctionTarget

GPU = "sim:h100"
LEFT = {"SYN010", "SET009"}


@cache
def scanned(how: str, *where: str) -> Report:
    """Weights are placed by that method of the pipeline."""
    case = CASES["sdxl"].build()

    def factory() -> Any:
        getattr(case.pipe, how)(*where)
        return case.pipe, case.kwargs

    target = FunctionTarget.of(factory)
    return scan_target(target, device=GPU, analyzers=("syncs", "kernels", "setup"))


@pytest.fixture(scope="module")
def on_the_device() -> Report:
    return scanned("to", "cuda")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_without_offloading_the_call_is_that_on_the_device(how: str, on_the_device: Report) -> None:
    found = scanned(how)
    assert found.verdict is not None
    assert on_the_device.verdict is not None
    (kept,) = [each for each in found.actions if each.fix == "replace-offload"]
    assert all("unknown until" not in (found.findings[n].cost_note or "") for n in kept.findings)
    assert found.verdict.call_ms - kept.alone_ms == pytest.approx(on_the_device.verdict.call_ms, rel=0.03)


@pytest.mark.slow
def test_with_all_fixes_it_is_the_call_on_the_device_with_them(on_the_device: Report) -> None:
    found = scanned("enable_model_cpu_offload")
    assert found.verdict is not None
    assert on_the_device.verdict is not None
    assert found.verdict.kept_ms == pytest.approx(on_the_device.verdict.kept_ms, rel=0.03)


@pytest.mark.slow
def test_no_other_finding_tells_of_the_weights_that_are_moved(on_the_device: Report) -> None:
    moving = scanned("enable_model_cpu_offload")
    assert {f.rule for f in moving.findings} - LEFT <= {f.rule for f in on_the_device.findings}
    after = [row for row in moving.recording.syncs or () if row.phase == "postprocess" and row.offload]
    assert after, "the hooks that are put on again after the call"
    copied = {f.site.function for f in moving.findings if f.rule == "SYN004" and f.site is not None}
    assert copied
    assert not any(function.endswith(".to") for function in copied), "no result that a model moves"


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if "model-offload" in name and "sdxl" in name])
def test_models_that_move_between_steps_are_scanned_to_the_end(name: str) -> None:
    report = scan_target(f"corpus:{name}", device=GPU, analyzers=("syncs", "kernels"))
    assert report.recording.failure is None
    assert any(row.offload for row in report.recording.syncs or ())
