from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from diffprof.judge.gaps import find_gaps
from diffprof.judge.steps import loops_of, phase_of_events, steps_of, with_steps
from diffprof.judge.timeline import (
    ALL_STREAMS,
    Without,
    events_of_kinds,
    events_of_syncs,
    length_us,
    length_with_steps_us,
    replay,
    saved_us,
    total_us,
)
from diffprof.model.recording import Grade, KernelKind, PhaseSpan, Timeline

Event = tuple[int, float, float, int, int]  # kind, host, device, stream, sync


def make(events: list[Event], *, latency: float = 5.0, settle: float = 6.0, limit: int = 1024) -> Timeline:
    columns = list(zip(*events, strict=True)) if events else [()] * 5
    kinds = max((e[0] for e in events), default=-1) + 1
    return Timeline(
        grade=Grade.SIMULATED,
        kinds=tuple(KernelKind(name=f"k{i}", op=f"op{i}", family="pointwise") for i in range(kinds)),
        modules=(),
        kind=columns[0],
        module=(-1,) * len(events),
        host_us=columns[1],
        device_us=columns[2],
        stream=columns[3],
        sync=columns[4],
        launch_latency_us=latency,
        sync_latency_us=settle,
        pending_limit=limit,
    )


def launch(host: float, device: float, kind: int = 0, stream: int = 0) -> Event:
    return (kind, host, device, stream, -1)


def read(host: float, row: int = 0, device: float = 0.0) -> Event:
    return (0 if device else -1, host, device, 0, row)


def test_a_fed_device_sets_the_length() -> None:
    run = replay(make([launch(10, 100)] * 3))
    assert run.total_us == 10 + 5 + 300
    assert run.host_end_us == 30
    assert run.device_busy_us == 300


def test_a_starved_device_waits_for_every_launch() -> None:
    run = replay(make([launch(10, 1)] * 3))
    assert run.device_start == (15, 25, 35)
    assert run.total_us == 36


def test_a_read_waits_for_the_device_and_its_latency() -> None:
    run = replay(make([launch(10, 100), read(10), launch(10, 1)]))
    # The kernel runs 15..115, the read is called at 20.
    assert run.blocked_us == {0: 115 + 6 - 20}
    assert run.total_us == 115 + 6 + 10 + 5 + 1


def test_a_blocking_copy_runs_and_then_waits_for_itself() -> None:
    run = replay(make([(0, 10.0, 50.0, 0, 0)]))
    assert run.device_end == (65,)
    assert run.blocked_us == {0: 65 + 6 - 10}


def test_a_sync_hidden_behind_queued_work_saves_nothing() -> None:
    # The host is far ahead; after the read it still reaches the device before the queue is empty.
    events = [launch(1, 1000), read(1), launch(1, 1000)]
    busy = make(events, latency=0.0, settle=0.0)
    saved = saved_us(busy, Without(waits=frozenset({0})))
    assert replay(busy).blocked_us[0] == 999
    assert saved == 1  # the host's microsecond to launch the next kernel


def test_the_same_sync_costs_its_price_when_launch_bound() -> None:
    bound = make([launch(10, 1), read(10), launch(10, 1)])
    assert saved_us(bound, Without(waits=frozenset({0}))) == 6
    assert saved_us(bound, Without(events=frozenset({1}))) == 16


def test_the_launch_queue_is_bounded() -> None:
    run = replay(make([launch(0, 10)] * 4, latency=0.0, limit=2))
    assert run.throttled_us == 20
    assert run.host_end_us == 20
    assert run.total_us == 40


def test_streams_overlap_and_a_device_wide_wait_covers_all() -> None:
    run = replay(make([launch(1, 50, stream=0), launch(1, 80, stream=7), (-1, 1.0, 0.0, ALL_STREAMS, -2)]))
    assert run.blocked_us == {-2: 2 + 5 + 80 + 6 - 3}
    assert run.device_busy_us == 81


def test_an_empty_timeline_has_no_length() -> None:
    run = replay(make([]))
    assert (run.total_us, run.device_busy_us, run.blocked_us) == (0.0, 0.0, {})
    assert total_us(make([])) == 0.0


def test_replacing_the_time_of_a_kind() -> None:
    timeline = make([launch(10, 100, kind=0), launch(10, 40, kind=1)])
    assert total_us(timeline, Without(kind_us={1: 10.0})) == 125
    assert total_us(timeline, Without(kind_us={0: 0.0})) == 10 + 5 + 40
    assert events_of_kinds(timeline, [1]) == (1,)
    assert events_of_syncs(make([launch(1, 1), read(1)]), [0]) == (1,)


def test_gaps_name_their_cause() -> None:
    events = [
        launch(10, 20),  # starts at 15: the first gap
        read(5),
        launch(10, 20),
        launch(60, 20),
        (-1, 80.0, 0.0, 0, -1),
        launch(10, 20),
    ]
    timeline = make(events)
    gaps = find_gaps(timeline, replay(timeline))
    assert [g.cause for g in gaps] == ["launch", "sync", "launch", "python"]
    assert gaps[1].sync == 0
    assert gaps[1].duration_us == 6 + 10 + 5
    assert gaps[1].after == gaps[1].before == "k0"
    run = replay(timeline)
    assert sum(g.duration_us for g in gaps) == pytest.approx(run.total_us - run.device_busy_us)


def test_a_host_that_goes_on_leaves_a_tail() -> None:
    timeline = make([launch(10, 5), (-1, 100.0, 0.0, 0, -1)])
    tail = find_gaps(timeline, replay(timeline))[-1]
    assert (tail.cause, tail.duration_us) == ("tail", 90)


def test_the_innermost_phase_wins() -> None:
    import msgspec

    spans = (
        PhaseSpan(name="denoise", step=0, first=0, last=3),
        PhaseSpan(name="denoise", step=0, part="scheduler", first=2, last=3),
    )
    timeline = msgspec.structs.replace(make([launch(1, 1)] * 4), phases=spans)
    assert [s.part if s else "-" for s in phase_of_events(timeline)] == [None, None, "scheduler", "-"]


times = st.integers(0, 60).map(float)
events = st.lists(
    st.tuples(st.integers(0, 3), times, times, st.integers(0, 2), st.sampled_from([-1, -1, -1, 0, 1, -2])),
    max_size=40,
)
timelines = st.builds(make, events, latency=times, settle=times, limit=st.integers(1, 6))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(timelines, st.data())
def test_leaving_anything_out_never_makes_anything_later(timeline: Timeline, data: st.DataObject) -> None:
    size = len(timeline.host_us)
    without = Without(
        waits=frozenset(data.draw(st.sets(st.sampled_from([0, 1, -2])))),
        events=frozenset(data.draw(st.sets(st.integers(0, size - 1)))) if size else frozenset(),
        kind_us=dict.fromkeys(data.draw(st.sets(st.integers(0, 3))), 0.0),
    )
    whole, part = replay(timeline), replay(timeline, without)
    assert part.total_us <= whole.total_us
    assert all(a <= b for a, b in zip(part.host_end, whole.host_end, strict=True))
    assert part.throttled_us >= 0.0


@settings(max_examples=300, deadline=None)
@given(timelines)
def test_a_replay_adds_up(timeline: Timeline) -> None:
    run = replay(timeline)
    assert total_us(timeline) == run.total_us
    assert run.device_busy_us <= run.total_us + 1e-9
    per_stream: dict[int, float] = {}
    for stream, start, end in zip(timeline.stream, run.device_start, run.device_end, strict=True):
        if start >= 0.0:
            assert start >= per_stream.get(stream, 0.0)  # one stream never runs two kernels at once
            per_stream[stream] = end
    assert run.host_end_us == pytest.approx(
        sum(timeline.host_us) + sum(run.blocked_us.values()) + run.throttled_us
    )


@settings(max_examples=200, deadline=None)
@given(timelines)
def test_gaps_and_work_fill_the_run(timeline: Timeline) -> None:
    run = replay(timeline)
    gaps = find_gaps(timeline, run, at_least_us=1e-9)
    assert sum(g.duration_us for g in gaps) + run.device_busy_us == pytest.approx(run.total_us)
    assert all(g.duration_us > 0 for g in gaps)


def stepped(steps: int, host: tuple[float, ...] | None = None) -> Timeline:
    """A launch before, three events a step (two of the denoiser, one of the scheduler), a launch after."""
    import msgspec

    events = [launch(3, 3, kind=2)]
    phases = [PhaseSpan(name="encode", first=0, last=1)]
    for step in range(steps):
        first = len(events)
        spent = host[step] if host else 10.0
        events += [launch(spent, 20), launch(5, 7, kind=1), read(1)]
        phases.append(PhaseSpan(name="denoise", step=step, part="denoiser", first=first, last=first + 2))
        phases.append(PhaseSpan(name="denoise", step=step, part="scheduler", first=first + 2, last=first + 3))
    phases.append(PhaseSpan(name="decode", first=len(events), last=len(events) + 1))
    events.append(launch(4, 4, kind=2))
    return msgspec.structs.replace(make(events), phases=tuple(phases))


@pytest.mark.parametrize("count", [3, 4, 30])
def test_more_steps_are_the_same_as_running_them(count: int) -> None:
    assert with_steps(stepped(3), count) == stepped(count)


@pytest.mark.parametrize("count", [2, 3, 30])
def test_the_length_with_more_steps_is_that_of_the_call_with_them(count: int) -> None:
    for few in (stepped(3), replace(stepped(3), late_us=(7.0,) * len(stepped(3).kind))):
        whole = with_steps(few, count)
        told = length_with_steps_us(few, count)
        assert told == (None if whole is None else pytest.approx(length_us(whole), rel=1e-12))
    assert length_with_steps_us(stepped(3, (1.0, 2.0, 3.0)), 9) is None


def test_steps_that_differ_at_the_ends_are_kept() -> None:
    longer = with_steps(stepped(4, (99.0, 10.0, 10.0, 50.0)), 7)
    assert longer == stepped(7, (99.0, *[10.0] * 5, 50.0))


def test_steps_that_all_differ_are_not_guessed() -> None:
    assert with_steps(stepped(3, (1.0, 2.0, 3.0)), 9) is None
    assert with_steps(stepped(4), 2) is None
    assert steps_of(stepped(2)) == ((1, 4), (4, 7))


def test_a_measured_wait_and_a_late_kernel_last_as_long_as_they_did() -> None:
    """Kernel of 10 that started 100 late, then a wait that went on 30 after it; the usual latency is 5."""
    timeline = Timeline(
        grade=Grade.MEASURED,
        kinds=(KernelKind(name="k", op="k", family="gemm"),),
        kind=(0, -1),
        module=(0, 0),
        host_us=(1.0, 1.0),
        device_us=(10.0, 0.0),
        stream=(0, 0),
        sync=(-1, 0),
        sync_latency_us=5.0,
        settle_us=(0.0, 30.0),
        late_us=(100.0, 0.0),
    )
    run = replay(timeline)
    assert (run.device_start[0], run.total_us, run.blocked_us) == (101.0, 141.0, {0: 139.0})
    assert total_us(timeline) == run.total_us
    assert total_us(timeline, Without(waits=frozenset({0}))) == 111.0


def test_a_loop_ends_where_another_phase_begins():
    one = stepped(4)
    before, after = one.phases[:5], one.phases[5:]
    tail = PhaseSpan(name="denoise", step=2, first=7, last=7)
    between = PhaseSpan(name="prepare", first=7, last=7)
    two = replace(one, phases=(*before, tail, between, *after))
    assert loops_of(two) == (((1, 4), (4, 7)), ((7, 10), (10, 13)))
    assert loops_of(one) == (steps_of(one),)
    assert with_steps(two, 4) == two
    assert with_steps(two, 9) is None


def test_a_wait_takes_the_latency_of_the_synchronize_beside_what_it_waits_for() -> None:
    timeline = Timeline(
        grade=Grade.SIMULATED,
        kinds=(KernelKind(name="add", op="add", family="pointwise"),),
        kind=(0, -1),
        module=(-1, -1),
        host_us=(5.0, 2.0),
        device_us=(100.0, 0.0),
        stream=(0, 0),
        sync=(-1, 0),
        launch_latency_us=4.0,
        sync_latency_us=6.0,
    )
    # The kernel runs from 9 to 109; the host is back 6 us later.
    run = replay(timeline)
    assert run.total_us == total_us(timeline) == 115.0
    assert run.blocked_us == {0: 115.0 - 7.0}
