"""What a change of the setup would give is what the call gives with it made."""

from __future__ import annotations

import pytest
import torch

from diffprof.corpus import CASES
from diffprof.devices.simulated import relaid
from diffprof.judge.setup_costs import HALF_COMPILED, half_shows_compiled
from diffprof.model.recording import Change, Recording
from diffprof.model.report import Report
from diffprof.scanning.scan import scan_target
from diffprof.targets import from_object


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd3", "sd15-inpaint"])
def test_fused_projections_take_what_they_were_told_to(name: str) -> None:
    """SD 3's processor for fused projections joins its two streams before it splits the heads, so that what
    attention returns need not be copied."""
    case = CASES[name].build()

    def recorded() -> Recording:
        target = from_object(case.pipe, kwargs=case.kwargs)
        return scan_target(target, device="sim:h100", analyzers=("syncs", "kernels", "setup")).recording

    before = recorded()
    told = {each.changes: each.ms for each in before.setup.alternatives}
    for part in case.pipe.components.values():
        if hasattr(part, "fuse_qkv_projections"):
            part.fuse_qkv_projections()
    made = recorded().timing.median * 1e3
    assert told[Change.QKV,] == pytest.approx(made, rel=1e-4)
    assert made < told[()] - 0.01


def test_half_precision_is_costed_compiled_where_it_saves_little_by_itself() -> None:
    case = CASES["sd15"].build()
    target = from_object(case.pipe, kwargs=case.kwargs)
    recording = scan_target(target, device="sim:h100", analyzers=("syncs", "kernels", "setup")).recording
    told = {frozenset(each.changes): each.ms for each in recording.setup.alternatives or ()}
    assert half_shows_compiled(told), "a tiny call waits for launches"
    assert told[HALF_COMPILED] <= told[frozenset({Change.COMPILED})]


def length_ms(report: Report) -> float:
    timing = report.recording.timing
    assert timing is not None
    assert timing.median is not None
    return timing.median * 1e3


def test_a_denoiser_that_waits_promises_of_another_layout_what_it_gives() -> None:
    case = CASES["ddim"].build()

    def scanned() -> Report:
        target = from_object(case.pipe, kwargs=case.kwargs)
        return scan_target(target, device="sim:a100-80gb", analyzers=("syncs", "kernels", "setup"))

    before = scanned()
    assert any(row.in_loop for row in before.recording.syncs or ()), "it waits"
    (conversions,) = [found for found in before.findings if found.rule == "KRN006"]
    assert conversions.fixes == ("channels-last",)
    case.pipe.unet.to(memory_format=torch.channels_last)
    saved = length_ms(before) - length_ms(scanned())
    assert conversions.saves_ms == pytest.approx(saved, rel=1e-4)
    assert saved > 0.1


def test_a_layout_that_could_not_be_tried_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called again, the denoiser waits otherwise."""
    spans = iter(range(1_000_000))
    monkeypatch.setattr(relaid, "_span", lambda wait: next(spans))
    report = scan_target("corpus:ddim", device="sim:a100-80gb", analyzers=("syncs", "kernels", "setup"))
    (conversions,) = [found for found in report.findings if found.rule == "KRN006"]
    assert (conversions.saves_ms, conversions.fixes) == (None, ("channels-last",))
    (gap,) = [gap for gap in report.recording.unseen if gap.what == "what torch.channels_last would save"]
    assert gap.why.endswith("waits otherwise")
