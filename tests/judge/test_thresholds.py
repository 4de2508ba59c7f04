"""Each threshold of the room lies between two figures, a tenth below it and a tenth above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.judge.acceptance import Measured, Seen, accept, too_close
from diffprof.judge.comparing import Direction, compare
from diffprof.judge.fitting import Shortfall, halving_makes_room
from diffprof.judge.fleet import outliers, rank_groups, trends
from diffprof.judge.pricing import UNEXPLAINED, price
from diffprof.judge.setup_costs import half_shows_compiled, uncovered_ms
from diffprof.judge.steps import nearly_repeats
from diffprof.judge.summary import summarized
from diffprof.model.finding import Evidence
from diffprof.model.fix import Difference, Safety
from diffprof.model.recording import (
    Alternative,
    Change,
    Grade,
    KernelKind,
    MemoryUse,
    Setup,
    Timeline,
    Timing,
)
from diffprof.model.report import Report
from diffprof.model.traces import TraceRow
from tests.analyzers.setup.examples import denoiser
from tests.builders import make_finding, make_recording, make_report, make_sync
from tests.judge.test_pricing import costed
from tests.judge.test_short_steps import call, read, told

SAME = Difference(compared_on="here", bit_equal=True, max_abs=0.0)


def state(seconds: float, grade: Grade = Grade.MEASURED) -> Measured:
    """A call of which one pass was made."""
    return Measured(ms=seconds * 1e3, grade=grade, passes=(seconds,) if grade is Grade.MEASURED else ())


def kept(before: Measured, after: Measured, goal: str = "latency", **seen: Any) -> bool:
    return accept(Safety.EXACT, None, goal, before, after, SAME, Seen(**seen)).keep


def simulated(seconds: float) -> Measured:
    return state(seconds, Grade.SIMULATED)


def direction(one: Report, other: Report, name: str) -> Direction:
    return next(each for each in compare(one, other).figures if each.name == name).direction


def timed(seconds: float) -> Report:
    timing = Timing(grade=Grade.MEASURED, seconds=(seconds,), median=seconds)
    return make_report(recording=make_recording(timing=timing))


def using(peak: float, grade: Grade) -> Report:
    memory = MemoryUse(grade=grade, peak_bytes=round(peak * 10**6))
    return make_report(recording=make_recording(memory=memory))


def more_memory(peak: float, grade: Grade) -> bool:
    return direction(using(1.0, grade), using(peak, grade), "memory, peak") is Direction.WORSE


def unexplained(beyond_us: float) -> bool:
    """A wait that goes on for so long after the end of all work."""
    timeline = Timeline(
        grade=Grade.MEASURED,
        kinds=(KernelKind(name="add", op="add", family="pointwise"),),
        kind=(0, -1, 0),
        module=(-1, -1, -1),
        host_us=(0.0, 0.0, 10.0),
        device_us=(10.0, 0.0, 10.0),
        stream=(0, 0, 0),
        sync=(-1, 0, -1),
        settle_us=(0.0, beyond_us, 0.0),
    )
    found = price(
        [make_finding(evidence=Evidence(syncs=(0,)))], make_recording(make_sync(), timeline=timeline)
    )
    return found[0].cost_note == UNEXPLAINED


def casts_told(saved_ms: float) -> bool:
    """Half precision saves nothing of the eager call, and so much of the compiled one."""
    recording = costed(half=100.0, compiled=60.0, compiled_half=60.0 - saved_ms)
    (found,) = price([make_finding(evidence=Evidence(change=Change.HALF))], recording)
    return found.saves_ms is not None


def uncovered(waits_ms: float) -> bool:
    """Waits that cost nothing now, and so much of a compiled call of 100 ms."""
    ways = (
        Alternative(changes=(), ms=200.0, without_waits_ms=200.0),
        Alternative(changes=(Change.COMPILED,), ms=100.0, without_waits_ms=100.0 - waits_ms),
    )
    return uncovered_ms(make_recording(setup=Setup(alternatives=ways))) is not None


def room(halved: float) -> bool:
    """Weights in float32 of which half is this share of what is lacked."""
    setup = Setup(parts=(denoiser(dtypes={"float32": int(2000 * halved)}, quantized=0),))
    return halving_makes_room(
        setup, Shortfall(phase="denoise", needs_bytes=3000, has_bytes=2000, over=("denoise",))
    )


def named(saved_ms: float) -> bool:
    """Beside a finding of 1 ms one that saves so much of a call of 100 ms."""
    found = (
        make_finding(rule, fixes=(), advice=rule, saves_ms=ms)
        for rule, ms in (("SYN001", 1.0), ("SYN002", saved_ms))
    )
    recording = replace(timed(0.1).recording, timeline=None)
    return "SYN002" in {
        each.rule for each in summarized(replace(make_report(*found), recording=recording)).actions
    }


def trace(number: int, window_us: float, **more: Any) -> TraceRow:
    given = {"folder": "", "created": f"2026-01-{number + 1:02}", **more}
    return TraceRow(key=str(number), path=f"{number}.json", bytes=1, window_us=window_us, **given)


def traces(*window_us: float) -> list[TraceRow]:
    return [trace(n, us) for n, us in enumerate(window_us)]


def held_up(us: float) -> bool:
    """Of two ranks with steps of 1 ms one comes so much later to a collective."""
    lengths = (100.0, 100.0 + us)
    ranks = [trace(n, 1000.0, rank=n, world_size=2, collectives=(each,)) for n, each in enumerate(lengths)]
    return bool(rank_groups(ranks)[0].stragglers)


EVEN = (1000.0, 990.0, 1010.0, 1000.0)
A_TENTH: dict[str, tuple[Callable[[float], bool], float]] = {
    "gain, simulated": (lambda x: kept(simulated(1.0), simulated(1.0 - x)), 0.001),
    "gain, measured": (lambda x: kept(state(1.0), state(1.0 - x)), 0.01),
    "gain that is sure": (lambda x: not too_close(state(1.0), state(1.0 - x)), 0.25),
    "loss that is sure": (lambda x: not too_close(state(1.0), state(1.0 + x)), 2.0),
    "cost of no waits": (
        lambda x: not kept(simulated(1.0), simulated(1.0 + x), "no-waits", in_loop_before=4, in_loop_after=0),
        0.02,
    ),
    "calls that lose what compiles took": (
        lambda x: kept(
            simulated(1.0), simulated(1.01), compiles_before=2, compiles_after=0, once_ms=10.0 * x
        ),
        100,
    ),
    "time that differs": (
        lambda x: direction(timed(1.0), timed(1.0 + x), "time of one call") is Direction.WORSE,
        0.01,
    ),
    "memory, predicted": (lambda x: more_memory(1.0 + x, Grade.SIMULATED), 0.05),
    "memory, measured": (lambda x: more_memory(1.0 + x, Grade.MEASURED), 0.01),
    "room by half precision": (room, 0.1),
    "wait for nothing recorded": (unexplained, 1000.0),
    "half precision's casts": (casts_told, 5.0),
    "half precision alone": (
        lambda x: not half_shows_compiled({frozenset(): 1.0, frozenset({Change.HALF}): 1.0 - x}),
        0.02,
    ),
    "waits that compiling uncovers": (uncovered, 1.0),
    "a step like another": (lambda x: nearly_repeats([(1.0, 1.0), (1.0, 1.0 - x)]) is None, 0.02),
    "a short step": (lambda x: told(call(read(), x), 100.0) is None, 0.7),
    "a row of its own": (named, 0.1),
    "an outlier's distance": (
        lambda x: bool(outliers(traces(*EVEN, 1000.0 + 10.0 * 1.4826 * x, 990.0, 1010.0))),
        3.5,
    ),
    "an outlier that matters": (lambda x: bool(outliers(traces(*[1000.0] * 4, 1000.0 * (1.0 + x)))), 0.02),
    "a trend that matters": (lambda x: bool(trends(traces(*[1000.0] * 5, *[1000.0 * (1.0 + x)] * 5))), 0.02),
    "a rank that holds others up": (held_up, 20.0),
}


@pytest.mark.parametrize("name", A_TENTH)
def test_a_threshold_lies_between(name: str) -> None:
    says, threshold = A_TENTH[name]
    assert (says(0.9 * threshold), says(1.1 * threshold)) == (False, True)


@pytest.mark.parametrize(("traces_of_a_kind", "told"), [(4, False), (5, True)])
def test_few_traces_have_no_middle(traces_of_a_kind: int, told: bool) -> None:
    assert bool(outliers(traces(*[1000.0] * (traces_of_a_kind - 1), 2000.0))) is told
