"""What a change of the setup would give is what the call gives with it made."""

from __future__ import annotations

import pytest

from diffprof.corpus import CASES
from diffprof.model.recording import Change, Recording
from diffprof.scanning.scan import scan_target
from diffprof.targets import from_object


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


def test_a_layout_that_could_not_be_tried_promises_nothing() -> None:
    """The denoiser of this pipeline waits, so that what it launches in channels_last is not known."""
    report = scan_target("corpus:ddim", device="sim:a100-80gb")
    (conversions,) = [found for found in report.findings if found.rule == "KRN006"]
    assert (conversions.saves_ms, conversions.fixes) == (None, ("channels-last",))
    assert "what torch.channels_last would save" in [gap.what for gap in report.recording.unseen]
