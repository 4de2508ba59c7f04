"""A call that does not fit is never timed as if it did."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from diffprof.judge.fitting import shortfall
from diffprof.judge.judging import make_report
from diffprof.model.recording import Grade, MemoryUse, Recording
from diffprof.views.verdict import verdict
from tests.analyzers.setup.examples import denoiser, recorded, vae

GIB = 2**30


def memory(**by_phase: float) -> MemoryUse:
    """On a device of 15 GiB; peaks of phases in GiB."""
    return MemoryUse(
        grade=Grade.SIMULATED,
        weights_bytes=10 * GIB,
        peak_bytes=int(max(by_phase.values()) * GIB),
        capacity_bytes=15 * GIB,
        by_phase={phase: int(peak * GIB) for phase, peak in by_phase.items()},
    )


def full_precision(use: MemoryUse) -> Recording:
    return recorded(denoiser(dtypes={"float32": 10 * GIB}, quantized=0, linears=9), vae(), memory=use)


@pytest.mark.parametrize(
    ("use", "phase", "said", "tiles"),
    [
        (memory(denoise=19, decode=12), "denoise", "needs 19 GiB in the denoising loop", False),
        (memory(denoise=14, decode=16.5), "decode", "needs 16.5 GiB in decoding", True),
        (memory(denoise=45, decode=30), "denoise", "needs 45 GiB in the denoising loop", True),
    ],
)
def test_what_does_not_fit_is_the_answer(use: MemoryUse, phase: str, said: str, tiles: bool) -> None:
    report = make_report(full_precision(use))
    answer = report.verdict
    assert answer is not None
    assert use.peak_bytes is not None
    assert (answer.fits, answer.phase) == (False, phase)
    assert (answer.needs_bytes, answer.lacks_bytes) == (use.peak_bytes, use.peak_bytes - 15 * GIB)
    lines = verdict(report)
    assert lines.headline.startswith(f"Does not fit: {said}, the ")
    assert "has 15 GiB" in lines.headline
    assert "saves" not in lines.headline + lines.why
    found = next(each for each in report.findings if each.rule == "SET008")
    assert ("vae-tiled" in found.fixes) is tiles
    assert {each.rule for each in report.findings[:2]} <= {"SET001", "SET008"}


def test_what_fits_is_timed() -> None:
    report = make_report(full_precision(memory(denoise=15, decode=14)))
    assert report.verdict is not None
    assert (report.verdict.fits, report.verdict.lacks_bytes, report.verdict.phase) == (True, None, None)
    assert not verdict(report).headline.startswith("Does not fit")
    assert "SET008" not in {each.rule for each in report.findings}


def test_memory_that_was_not_recorded_is_no_verdict() -> None:
    assert shortfall(None) is None
    assert shortfall(replace(memory(decode=99), capacity_bytes=None)) is None
    answer = make_report(replace(full_precision(memory(decode=9)), memory=None)).verdict
    assert answer is not None
    assert answer.fits is None
