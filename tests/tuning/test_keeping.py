"""When a fix stays, on figures alone."""

from __future__ import annotations

import pytest

from diffprof.judge.acceptance import Measured, Seen, judged, too_close
from diffprof.model.fix import Difference, Safety
from diffprof.model.recording import Grade

SAME = Difference(compared_on="here", bit_equal=True, max_abs=0.0)
UNKNOWN = Difference(compared_on="nothing", why_not="it can't be shrunk")
RESOLVED = Seen(in_loop_before=4, in_loop_after=0, resolved=("SYN001",))


def simulated(ms, memory=None):
    return Measured(ms=ms, grade=Grade.SIMULATED, memory_bytes=memory)


def measured(*passes, spread=0.0):
    ordered = sorted(passes)
    return Measured(
        ms=ordered[len(ordered) // 2] * 1e3, grade=Grade.MEASURED, spread_ms=spread, passes=passes
    )


def changed(by):
    return Difference(compared_on="here", bit_equal=False, max_abs=by, latents_max_abs=30 * by)


@pytest.mark.parametrize(
    ("safety", "tolerance", "before", "after", "difference", "seen", "keep", "why"),
    [
        (Safety.EXACT, None, 10.0, 9.0, SAME, Seen(), True, "It saves 1 ms of 10 ms, 10.0%."),
        (Safety.EXACT, None, 10.0, 10.0, SAME, RESOLVED, True, "No time gained, at no cost."),
        (Safety.EXACT, None, 10.0, 10.0, SAME, Seen(), False, "what it is for is still found"),
        (Safety.EXACT, None, 10.0, 11.0, SAME, RESOLVED, False, "1 ms slower"),
        (Safety.EXACT, None, 10.0, 5.0, changed(1e-7), RESOLVED, False, "should be bit-identical"),
        (Safety.EXACT, None, 10.0, 5.0, UNKNOWN, RESOLVED, True, "rests on nothing: it can't be shrunk"),
        (Safety.NUMERIC, 1e-2, 10.0, 5.0, changed(1e-3), Seen(), True, "It saves"),
        (Safety.NUMERIC, 1e-2, 10.0, 5.0, changed(1e-1), Seen(), False, "more than the 0.01"),
        (Safety.NUMERIC, 1e-2, 10.0, 5.0, changed(float("inf")), Seen(), False, "more than the 0.01"),
        (Safety.NUMERIC, 1e-2, 10.0, 10.0, changed(1e-3), RESOLVED, False, "for nothing"),
        (Safety.LOSSY, None, 10.0, 5.0, changed(0.9), Seen(), True, "It saves"),
        (Safety.LOSSY, None, 10.0, 10.0, changed(0.9), Seen(), False, "for nothing"),
    ],
)
def test_keeping(safety, tolerance, before, after, difference, seen, keep, why):
    found = judged(safety, tolerance, "latency", simulated(before), simulated(after), difference, seen)
    assert found[0] is keep
    assert why in found[1]


def test_what_rounding_does_is_no_change():
    args = Safety.NUMERIC, 1e-2, "latency", simulated(10.0), simulated(5.0), changed(0.05), Seen()
    assert not judged(*args)[0]
    keep, why = judged(*args, own_noise=0.06)
    assert keep
    assert "rounding alone makes 0.06" in why


def test_the_goal_of_memory():
    def judge(before, after):
        return judged(Safety.EXACT, None, "memory", before, after, SAME, Seen())

    assert judge(simulated(10.0, 2_000), simulated(12.0, 1_000)) == (
        True,
        "It saves 1 kB of 2 kB, for 2 ms more per call.",
    )
    assert not judge(simulated(10.0, 2_000), simulated(5.0, 2_000))[0]
    assert "not measured" in judge(simulated(10.0), simulated(5.0))[1]


def test_small_gains_and_losses_are_timed_again():
    assert too_close(measured(1.0), measured(1.0))
    assert too_close(measured(1.0), measured(1.5))
    assert not too_close(measured(1.0), measured(0.5))
    assert not too_close(measured(1.0), measured(9.0))
    assert not too_close(simulated(1.0), simulated(1.0))


def test_a_loss_that_the_fastest_passes_do_not_show_is_none():
    before, after = measured(1.0, 1.0, 1.1), measured(1.0, 1.6, 1.7)
    assert judged(Safety.EXACT, None, "latency", before, after, SAME, RESOLVED)[0]
    slower = measured(1.5, 1.6, 1.7)
    assert not judged(Safety.EXACT, None, "latency", before, slower, SAME, RESOLVED)[0]


# --- fixes against recompiles ----------------------------------------------------------------------------


def _recompiled(after_ms: float, **more: object) -> tuple[bool, str]:
    seen = Seen(**{"compiles_before": 2, "compiles_after": 0, "once_ms": 5000.0, **more})  # type: ignore[arg-type]
    return judged(Safety.NUMERIC, 0.02, "latency", simulated(100.0), simulated(after_ms), SAME, seen)


def test_compiles_that_are_gone_are_worth_a_fix_without_a_gain_in_the_call() -> None:
    keep, why = _recompiled(100.0)
    assert keep
    assert why == "A call takes as long; 2 compiles fewer in a process, 0 left, which took 5,000 ms."


@pytest.mark.parametrize(("after_ms", "keeps"), [(101.0, True), (200.0, False)])
def test_a_slower_call_is_held_against_what_compiling_took(after_ms: float, keeps: bool) -> None:
    keep, why = _recompiled(after_ms)
    assert keep is keeps
    assert why.endswith(f"That is lost after {5000 / (after_ms - 100.0):,.0f} calls.")


def test_a_slower_call_for_compiles_that_nobody_timed_is_undone() -> None:
    assert not _recompiled(101.0, once_ms=None)[0]


def test_a_graph_break_in_the_place_of_a_compile_is_no_gain() -> None:
    keep, why = _recompiled(100.0, breaks_before=0, breaks_after=1)
    assert not keep
    assert "1 more break instead" in why


def test_compiles_that_nobody_counted_again_are_not_fewer() -> None:
    keep, why = _recompiled(100.0, compiles_after=None)
    assert not keep
    assert "gained no time" in why
