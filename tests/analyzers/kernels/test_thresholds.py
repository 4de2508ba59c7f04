"""Each threshold of the rules lies between two figures, a tenth below it and a tenth above."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from diffprof.judge.judging import make_report
from diffprof.judge.timeline import total_us
from diffprof.model.recording import Alternative, Change, LineRow, Recording, Setup
from tests.analyzers.kernels.examples import (
    FLAT,
    by_line,
    idle,
    profiled,
    recorded,
    remembered,
    with_a_slow_start,
)
from tests.analyzers.kernels.made_timeline import MadeTimeline, fed
from tests.builders import make_site

STEP_US = 50 * 400.0 + 2 * 5.0
"""Device time of a step of `fed`."""


def fires(code: str, recording: Recording) -> bool:
    return code in {finding.rule for finding in make_report(recording).findings}


def beside(share: float) -> float:
    """Microseconds that are this share of a step with them in it."""
    return share / (1 - share) * STEP_US


def bubble(idle_us: float) -> bool:
    """Steps of 4 ms, each of which waits at its end and then takes so long until it has launched more; the
    loop is a hundredth shorter without at 31.9 us."""
    made = (
        MadeTimeline().launch("embed", 1.0, idle_us).launch("linear", 400.0, times=10, family="gemm").wait()
    )
    return fires("KRN002", recorded(made))


def line(share: float) -> bool:
    """One whose operations keep the device busy for this share of the call."""
    made = fed().launch("fill", 12.0, times=300)
    busy = share * total_us(made.timeline())
    return fires("KRN015", by_line(made, LineRow(site=make_site("mask.py", 3), count=1, device_us=busy)))


def in_a_row(times: float) -> bool:
    """So many operations of a line that counts."""
    made = fed().launch("fill", 12.0, times=int(times))
    row = LineRow(site=make_site("mask.py", 3), count=1200, device_us=14_400.0)
    (found,) = (f for f in make_report(by_line(made, row)).findings if f.rule == "KRN015")
    return bool(found.evidence.events)


def stalls(ms: float) -> bool:
    """Ten copies of so many milliseconds each."""
    return fires("KRN014", profiled(replace(idle("copy", 10 * ms, "cudaMemcpyAsync"), count=10)))


def converted(share: float) -> bool:
    """A call with conversions of the layout that another layout makes shorter by this share."""
    ways = (Alternative(changes=(), ms=1.0), Alternative(changes=(Change.CHANNELS_LAST,), ms=1.0 - share))
    recording = recorded(fed().launch("nchwToNhwc", 900.0, family="copy"))
    return fires("KRN006", replace(recording, setup=Setup(alternatives=ways)))


def headroom(share: float) -> bool:
    """Twice the batch takes this share of 80 GiB, 7 of which are weights."""
    each = (80 * share - 7) / 2
    return not fires("KRN011", with_a_slow_start(FLAT, peak=int((7 + each) * 2**30)))


def grows(by: float) -> bool:
    return fires("KRN009", remembered(tuple((7 << 30) + int(by * n / 2) for n in (0, 0, 1, 2))))


PAGEABLE = "Memcpy HtoD (Pageable -> Device)"
A_TENTH: dict[str, tuple[Callable[[float], bool], float]] = {
    "bubble": (bubble, 31.9),
    "copies in a step": (
        lambda us: fires("KRN008", recorded(fed().launch(PAGEABLE, us, family="copy"))),
        100.0,
    ),
    "a call that does not issue its copy": (stalls, 1.0),
    "a first call": (
        lambda x: fires("KRN013", profiled(idle("stall", 4 * beside(x) / 1e3, "cudaMalloc"))),
        0.2,
    ),
    "a line": (line, 0.01),
    "operations in a row": (in_a_row, 256),
    "growth": (grows, 16 * 2**20),
    "headroom": (headroom, 0.9),
    "scheduler": (
        lambda x: fires("KRN003", recorded(fed().launch("solve", beside(x), part="scheduler"))),
        0.05,
    ),
    "a kind of kernel": (
        lambda x: fires("KRN007", recorded(fed().launch("cast_float16_float32", beside(x), family="copy"))),
        0.02,
    ),
    "another layout": (converted, 0.001),
    "kernels as many as eagerly": (
        lambda x: fires("KRN012", recorded(fed(), mode="compiled", eager_kernels=round(4 * 52 / x))),
        0.9,
    ),
}


@pytest.mark.parametrize("name", A_TENTH)
def test_a_threshold_lies_between(name: str) -> None:
    says, threshold = A_TENTH[name]
    assert (says(0.9 * threshold), says(1.1 * threshold)) == (False, True)
