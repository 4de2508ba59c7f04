"""A call that is short because a value was unknown says so, and what it takes with whole steps."""

from __future__ import annotations

from typing import Any

import pytest
from diffusers.hooks import FirstBlockCacheConfig
from msgspec.structs import replace

import diffprof
from diffprof.corpus import CASES
from diffprof.judge.short_steps import SHORT, short_steps
from diffprof.judge.timeline import total_us
from diffprof.model.recording import Recording, SyncRow
from diffprof.model.report import Report
from diffprof.model.summary import ShortSteps
from diffprof.model.units import place
from diffprof.views.verdict import verdict
from tests.analyzers.kernels.made_timeline import MadeTimeline
from tests.builders import make_recording, make_sync

WHOLE_US = 4_000.0


def read(**more: Any) -> SyncRow:
    """A cache's comparison with the step before."""
    return make_sync(**{"assumed": "0.0", "part": "denoiser", "by_step": (0, 1, 1, 1), "count": 3, **more})


def call(row: SyncRow, share: float) -> Recording:
    """Four steps, the first of WHOLE_US, the others of that share of it."""
    timeline = MadeTimeline().launch("linear", WHOLE_US).timeline()
    first, *others = timeline.device_us
    timeline = replace(timeline, device_us=(first, *(us * share for us in others)))
    return make_recording(row, timeline=timeline)


def told(recording: Recording, call_ms: float) -> ShortSteps | None:
    return short_steps(recording.timeline, recording.syncs, call_ms)


def test_the_call_with_whole_steps_is_told() -> None:
    found = told(call(read(), 0.1), 100.0)
    assert found is not None
    assert (found.steps, found.of, found.site) == (3, 4, read().site)
    assert found.whole_ms == pytest.approx(100.0 + 3 * 0.9 * WHOLE_US / 1e3)
    longer = call(read(), 1.0).timeline
    assert longer is not None
    assert total_us(longer) > 4 * WHOLE_US


def test_a_copy_to_the_cpu_may_decide_as_well() -> None:
    """`.cpu().item()`, as TeaCache asks."""
    row = read(kind="device-to-host", assumed=None, values_known=False)
    assert told(call(row, 0.1), 100.0) is not None
    assert told(call(replace(row, values_known=True), 0.1), 100.0) is None


@pytest.mark.parametrize("share", [SHORT - 0.01, SHORT + 0.01])
def test_steps_that_are_nearly_as_long_are_whole(share: float) -> None:
    assert (told(call(read(), share), 100.0) is not None) == (share < SHORT)


@pytest.mark.parametrize(
    "row",
    [
        read(assumed=None),
        read(part="callback"),
        read(by_step=(1, 1, 1, 1)),
        read(by_step=(0, 0, 1, 1)),
        read(by_step=()),
    ],
    ids=[
        "known",
        "after the denoiser",
        "read in whole steps too",
        "not in all short ones",
        "not told by step",
    ],
)
def test_another_read_decides_nothing(row: SyncRow) -> None:
    assert told(call(row, 0.1), 100.0) is None


@pytest.mark.slow
def test_a_cache_that_decides_by_a_value_is_told_with_what_it_takes_without() -> None:
    def scanned(cached: bool) -> Report:
        def make() -> Any:
            pipe = CASES["flux-group-offload-blocks"].build().pipe
            if cached:
                pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
            return pipe

        return diffprof.scan(make, device="sim:h100", height=1024, width=1024, num_inference_steps=6)

    with_cache, without = scanned(True), scanned(False)
    assert with_cache.verdict is not None
    assert without.verdict is not None
    found = with_cache.verdict.short_steps
    assert found is not None
    assert (found.steps, found.of) == (5, 6)
    assert found.site.file.endswith("hooks/first_block_cache.py")
    assert without.verdict.short_steps is None
    assert found.whole_ms == pytest.approx(without.verdict.call_ms, rel=0.02)
    assert f"5 of 6 steps are cut short at {place(found.site)}" in verdict(with_cache).headline
