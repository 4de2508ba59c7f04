"""A long timeline is run in blocks of arrays: the same times as event by event."""

from __future__ import annotations

import math
import random
from itertools import pairwise
from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.judge import timeline as replaying
from diffprof.judge.blocks import HostAndDevice, cut_at_steps
from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import Without, columns_of, replay, total_us
from diffprof.model.recording import Grade, PhaseSpan, Timeline

EVENTS = 2_000
CHANGES = (
    Without(waits=frozenset({0})),
    Without(events=frozenset(range(0, EVENTS, 7)), whole=frozenset(range(0, EVENTS, 14))),
    Without(kind_us={1: 0.0, 2: 30.0}),
    Without(kind_host={0: 0.5}),
    Without(waits=frozenset({1}), events=frozenset({5}), kind_us={0: 1.0}),
)


def drawn(seed: int, limit: int, grade: Grade) -> Timeline:
    """Host and device each ahead for a while, waits with and without a row, events of the host alone."""
    chosen = random.Random(seed)

    def column(*values: float) -> tuple[float, ...]:
        return tuple(chosen.choice(values) for _ in range(EVENTS))

    return Timeline(
        grade=grade,
        kind=tuple(map(int, column(-1, 0, 1, 2))),
        module=(0,) * EVENTS,
        host_us=column(0.0, 3.0, 10.0, 200.0),
        device_us=column(0.0, 2.0, 9.0, 150.0),
        stream=(0,) * EVENTS,
        sync=tuple(map(int, column(*[-1] * 80, 0, 1, -2))),
        launch_latency_us=4.0,
        sync_latency_us=7.0,
        pending_limit=limit,
    )


@pytest.mark.parametrize("limit", [5, 64, 1 << 20])
@pytest.mark.parametrize("grade", [Grade.SIMULATED, Grade.MEASURED])
def test_blocks_give_the_same_times(monkeypatch: pytest.MonkeyPatch, limit: int, grade: Grade) -> None:
    timeline = drawn(limit, limit, grade)
    one, blocks = [], []
    for found, long in ((one, EVENTS + 1), (blocks, 1)):
        monkeypatch.setattr(replaying, "LONG", long)
        replaying._LAST.clear()
        found += [replay(timeline), *(total_us(timeline, change) for change in CHANGES)]
    assert blocks[1:] == pytest.approx(one[1:], abs=1e-6)
    assert blocks[0].blocked_us == pytest.approx(one[0].blocked_us, abs=1e-6)
    for name in set(type(one[0]).__struct_fields__) - {"blocked_us"}:
        assert getattr(blocks[0], name) == pytest.approx(getattr(one[0], name), abs=1e-6), name
    assert one[0].throttled_us > 0.0 or limit > 5


def in_steps(steps: int, limit: int) -> Timeline:
    """Steps that repeat, all but the first, after a few events and before others."""
    drawn_ones = drawn(7, limit, Grade.SIMULATED)
    first, step, rest = range(90), range(100, 250), range(400, 460)
    events = [*first, *range(90, 100), *[*step] * (steps - 1), *rest]
    begins = [90, *(100 + n * len(step) for n in range(steps))]
    columns = {
        name: tuple(getattr(drawn_ones, name)[event] for event in events)
        for name in ("kind", "module", "host_us", "device_us", "stream", "sync")
    }
    spans = tuple(
        PhaseSpan(name="denoise", step=n, part="denoiser", first=first, last=last)
        for n, (first, last) in enumerate(pairwise(begins))
    )
    return replace(drawn_ones, phases=spans, **columns)


@pytest.mark.parametrize("limit", [5, 64, 1 << 20])
@pytest.mark.parametrize("change", [Without(), *CHANGES[2:4]])
def test_steps_that_repeat_are_run_until_they_take_as_long_again(
    monkeypatch: pytest.MonkeyPatch, limit: int, change: Without
) -> None:
    taken: list[Any] = []
    times = []
    step = HostAndDevice._step

    def counted(*given: Any) -> Any:
        taken.append(given)
        return step(*given)

    monkeypatch.setattr(HostAndDevice, "_step", counted)
    for steps in (20, 60):
        timeline = in_steps(steps, limit)
        assert steps_of(timeline)[-1][1] == len(timeline.kind) - 60
        host, device, sync = columns_of(timeline).without(change, math.inf, timeline.module_us)
        taken.clear()
        blocks = cut_at_steps(host, device, sync, limit, steps_of(timeline))
        told = HostAndDevice(4.0, 7.0, limit).run(blocks)
        times.append(len(taken))
        assert told == pytest.approx(replaying._replay(timeline, change).total_us, abs=1e-4)
        assert len({id(block) for block in blocks}) < len(blocks) / 4
    assert times[0] == times[1]


def test_what_saves_nothing_saves_exactly_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums in another order differ in their last digits: that is no saving."""
    monkeypatch.setattr(replaying, "LONG", 1)
    timeline = drawn(3, 64, Grade.SIMULATED)
    assert total_us(timeline, Without(kind_us={7: 5.0})) == replay(timeline).total_us
