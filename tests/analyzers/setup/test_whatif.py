"""What another setup would cost, reckoned from one call, against the call scanned in that setup."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch")

from diffprof.judge.judging import make_report
from diffprof.judge.setup_costs import ORDER, along, column, evidence
from diffprof.model.recording import Grade, KernelKind, KindCosts, Recording
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options

pytestmark = pytest.mark.slow


@cache
def scanned(*, baseline: bool = False, dtype: str | None = None, compiled: bool = False) -> Recording:
    return scan_target(
        "sdxl",
        device="sim:a100-80gb",
        options=Options(steps=2, baseline=baseline or None, dtype=dtype),
        analyzers=("syncs", "kernels", "setup"),
        settings={"compiled": compiled},
    ).recording


def reckoned(recording: Recording, name: str) -> float:
    """Device time of the call after this change and those before it, in us."""
    assert recording.timeline is not None
    assert recording.setup is not None
    assert recording.setup.costs is not None
    calls = Counter(recording.timeline.kind)
    times = column(recording.setup.costs, name)
    return sum(calls[kind] * us for kind, us in enumerate(times))


def spent(recording: Recording) -> float:
    assert recording.timeline is not None
    return sum(recording.timeline.device_us)


STARTS: tuple[dict[str, Any], ...] = (
    {"baseline": True},
    {"baseline": False},
    {"baseline": True, "dtype": "bf16"},
    {"dtype": "bf16"},
)


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_the_first_column_is_the_call_itself(start: dict[str, Any]) -> None:
    recording = scanned(**start)
    assert reckoned(recording, "now") == pytest.approx(spent(recording))


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_reckoned_setups_cost_what_they_cost_when_they_are_scanned(start: dict[str, Any]) -> None:
    recording = scanned(**start)
    half = scanned(dtype="bf16", baseline=start.get("baseline", False))
    fused, compiled = scanned(dtype="bf16"), scanned(dtype="bf16", compiled=True)
    assert reckoned(recording, "half") == pytest.approx(spent(half), rel=0.01)
    assert reckoned(recording, "sdpa") == pytest.approx(spent(fused), rel=0.02)
    # The column has fused projections in it, the scan has not.
    projections = reckoned(recording, "sdpa") - reckoned(recording, "qkv")
    assert reckoned(recording, "compiled") + projections == pytest.approx(spent(compiled), rel=0.02)
    assert reckoned(recording, "int8") < reckoned(recording, "compiled")


def test_a_change_that_is_made_already_gains_nothing() -> None:
    recording = scanned(dtype="bf16")
    assert reckoned(recording, "half") == pytest.approx(spent(recording), rel=1e-3)
    assert reckoned(recording, "sdpa") == pytest.approx(spent(recording), rel=1e-3)
    assert evidence(recording, "compiled").kinds
    rules = {finding.rule for finding in make_report(recording).findings}
    assert "SET011" in rules
    assert not {"SET001", "SET003", "KRN004"} & rules


def test_a_compiled_call_is_not_reckoned_with() -> None:
    recording = scanned(dtype="bf16", compiled=True)
    assert recording.setup is not None
    assert recording.setup.costs is None


def test_each_column_is_at_most_the_one_before() -> None:
    for start in STARTS:
        recording = scanned(**start)
        totals = [reckoned(recording, name) for name in ORDER]
        assert totals == sorted(totals, reverse=True)


def test_costs_follow_their_kinds_to_another_timeline() -> None:
    def kind(name: str, us: float, **more: str) -> KernelKind:
        return KernelKind(name=name, op=name, family="other", device_us=us, **more)

    costs = KindCosts(grade=Grade.SIMULATED, now_us=(1.0, 2.0), half_us=(0.5, 1.0), int8_us=(0.1, 0.2))
    before = (kind("a", 1.0), kind("b", 2.0))
    after = (kind("new", 7.0), kind("b", 2.5), kind("a", 1.0, shape="2x2"), kind("a", 1.0))
    found = along(costs, before, after)
    assert found.now_us == (7.0, 2.0, 1.0, 1.0)
    assert found.half_us == (7.0, 1.0, 1.0, 0.5)
    assert found.int8_us == (7.0, 0.2, 1.0, 0.1)
    assert found.sdpa_us == ()
