"""When a fix stays, on figures alone."""

from __future__ import annotations

import pytest

from diffprof.judge.acceptance import MAY_COST, Decision, Measured, Seen, accept, too_close
from diffprof.judge.reasons import said
from diffprof.model.fix import Difference, Reason, Safety
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
    ("safety", "tolerance", "before", "after", "difference", "seen", "keep", "reason", "words"),
    [
        (Safety.EXACT, None, 10.0, 9.0, SAME, Seen(), True, Reason.FASTER, "It saves 1 ms of 10 ms, 10.0%."),
        (Safety.EXACT, None, 10.0, 10.0, SAME, RESOLVED, True, Reason.NO_COST, "No time gained, at no cost."),
        (Safety.EXACT, None, 10.0, 10.0, SAME, Seen(), False, Reason.STILL_FOUND, "is still found"),
        (Safety.EXACT, None, 10.0, 11.0, SAME, RESOLVED, False, Reason.SLOWER, "1 ms slower"),
        (Safety.EXACT, None, 10.0, 5.0, changed(1e-7), RESOLVED, False, Reason.CHANGED, "be bit-identical"),
        (Safety.NUMERIC, 1e-2, 10.0, 5.0, changed(1e-3), Seen(), True, Reason.FASTER, "It saves"),
        (Safety.NUMERIC, 1e-2, 10.0, 5.0, changed(1e-1), Seen(), False, Reason.CHANGED, "more than the 0.01"),
        (Safety.NUMERIC, 1e-2, 10.0, 5.0, changed(float("inf")), Seen(), False, Reason.CHANGED, "the 0.01"),
        (Safety.NUMERIC, 1e-2, 10.0, 10.0, changed(1e-3), RESOLVED, False, Reason.NO_GAIN, "for nothing"),
        (Safety.LOSSY, None, 10.0, 5.0, changed(0.9), Seen(), True, Reason.FASTER, "It saves"),
        (Safety.LOSSY, None, 10.0, 10.0, changed(0.9), Seen(), False, Reason.NO_GAIN, "for nothing"),
        (Safety.LOSSY, None, 10.0, 9.91, changed(0.9), Seen(), False, Reason.TOO_LITTLE, "0.9%: too little"),
        (Safety.LOSSY, None, 10.0, 9.89, changed(0.9), Seen(), True, Reason.FASTER, "It saves"),
    ],
)
def test_a_fix_stays_for_a_reason(safety, tolerance, before, after, difference, seen, keep, reason, words):
    found = accept(safety, tolerance, "latency", simulated(before), simulated(after), difference, seen)
    assert (found.keep, found.reason, found.unchecked) == (keep, reason, False)
    assert words in said(found)


@pytest.mark.parametrize("safety", [Safety.EXACT, Safety.NUMERIC, Safety.LOSSY])
def test_what_could_not_be_compared_is_not_kept_unless_asked_for(safety):
    args = safety, 1e-2, "latency", simulated(10.0), simulated(5.0), UNKNOWN, RESOLVED
    found = accept(*args)
    assert (found.keep, found.unchecked) == (False, True)
    assert said(found).endswith(
        "Not kept: that could not be checked: it can't be shrunk. --keep-unchecked keeps it."
    )
    asked = accept(*args, keep_unchecked=True)
    assert (asked.keep, asked.unchecked) == (True, True)
    assert said(asked).endswith("Kept although that could not be checked: it can't be shrunk.")


def test_what_does_not_help_is_undone_for_that_though_nothing_was_compared():
    found = accept(Safety.EXACT, None, "latency", simulated(10.0), simulated(11.0), UNKNOWN, RESOLVED)
    assert (found.keep, found.unchecked, found.reason) == (False, False, Reason.SLOWER)


@pytest.mark.parametrize(
    ("goal", "cost", "safety", "keep"),
    [
        ("latency", MAY_COST / 2, Safety.EXACT, False),
        ("no-waits", MAY_COST / 2, Safety.EXACT, True),
        ("no-waits", MAY_COST * 2, Safety.EXACT, False),
        ("no-waits", MAY_COST / 2, Safety.NUMERIC, False),
    ],
)
def test_to_be_rid_of_waits_an_exact_fix_may_cost_a_stated_share(goal, cost, safety, keep):
    after = simulated(100.0 * (1.0 + cost))
    found = accept(safety, 1e-2, goal, simulated(100.0), after, SAME, RESOLVED)
    assert found.keep is keep
    assert found.reason is (Reason.STATED_COST if keep else Reason.SLOWER)


def test_a_stated_cost_needs_fewer_waits():
    after = simulated(100.0 * (1.0 + MAY_COST / 2))
    resolved = Seen(in_loop_before=4, in_loop_after=4, resolved=("SYN006",))
    assert not accept(Safety.EXACT, None, "no-waits", simulated(100.0), after, SAME, resolved).keep


def test_what_rounding_does_is_no_change():
    args = Safety.NUMERIC, 1e-2, "latency", simulated(10.0), simulated(5.0), changed(0.05), Seen()
    assert not accept(*args).keep
    found = accept(*args, own_noise=0.06)
    assert found.keep
    assert said(found).endswith("The output changed by up to 0.05: rounding alone makes 0.06.")


def test_the_goal_of_memory():
    def judge(before, after):
        return accept(Safety.EXACT, None, "memory", before, after, SAME, Seen())

    saves = judge(simulated(10.0, 2_000), simulated(12.0, 1_000))
    assert saves.keep
    assert said(saves) == "It saves 1,000 B of 1.95 KiB, for 2 ms more per call."
    assert judge(simulated(10.0, 2_000), simulated(5.0, 2_000)).reason is Reason.NO_MEMORY
    assert judge(simulated(10.0), simulated(5.0)).reason is Reason.MEMORY_UNKNOWN


def test_small_gains_and_losses_are_timed_again():
    assert too_close(measured(1.0), measured(1.0))
    assert too_close(measured(1.0), measured(1.5))
    assert not too_close(measured(1.0), measured(0.5))
    assert not too_close(measured(1.0), measured(9.0))
    assert not too_close(simulated(1.0), simulated(1.0))


def test_a_loss_that_the_fastest_passes_do_not_show_is_none():
    before, after = measured(1.0, 1.0, 1.1), measured(1.0, 1.6, 1.7)
    assert accept(Safety.EXACT, None, "latency", before, after, SAME, RESOLVED).keep
    slower = measured(1.5, 1.6, 1.7)
    assert not accept(Safety.EXACT, None, "latency", before, slower, SAME, RESOLVED).keep


# --- fixes against recompiles ----------------------------------------------------------------------------


def _recompiled(after_ms: float, **more: object) -> Decision:
    seen = Seen(**{"compiles_before": 2, "compiles_after": 0, "once_ms": 5000.0, **more})  # type: ignore[arg-type]
    return accept(Safety.NUMERIC, 0.02, "latency", simulated(100.0), simulated(after_ms), SAME, seen)


def test_compiles_that_are_gone_are_worth_a_fix_without_a_gain_in_the_call() -> None:
    found = _recompiled(100.0)
    assert (found.keep, found.reason) == (True, Reason.FEWER_COMPILES)
    assert said(found) == "A call takes as long; 2 compiles fewer in a process, 0 left, which took 5,000 ms."


@pytest.mark.parametrize(("after_ms", "keeps"), [(101.0, True), (200.0, False)])
def test_a_slower_call_is_held_against_what_compiling_took(after_ms: float, keeps: bool) -> None:
    found = _recompiled(after_ms)
    assert found.keep is keeps
    assert said(found).endswith(f"That is lost after {5000 / (after_ms - 100.0):,.0f} calls.")


def test_a_slower_call_for_compiles_that_nobody_timed_is_undone() -> None:
    assert not _recompiled(101.0, once_ms=None).keep


def test_a_graph_break_in_the_place_of_a_compile_is_no_gain() -> None:
    found = _recompiled(100.0, breaks_before=0, breaks_after=1)
    assert (found.keep, found.reason) == (False, Reason.MORE_BREAKS)
    assert "1 more break instead" in said(found)


def test_compiles_that_nobody_counted_again_are_not_fewer() -> None:
    found = _recompiled(100.0, compiles_after=None)
    assert (found.keep, found.reason) == (False, Reason.NO_GAIN)
