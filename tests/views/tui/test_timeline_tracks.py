"""Tracks and windows: exact microseconds of a small timeline."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffprof.judge.timeline import Without, replay
from diffprof.views.tui.timeline_tracks import Stretches, Window, ticks, time_text, tracks_of
from tests.views.tui.reports import STEPS, timeline

TIMES = st.floats(0, 1e6, allow_nan=False)


def test_tracks_add_up_to_the_replay() -> None:
    run = replay(timeline())
    tracks = tracks_of(timeline())
    assert tracks.total_us == run.total_us
    assert tracks.waits.total_us == pytest.approx(sum(run.blocked_us.values()))
    assert tracks.host.total_us == pytest.approx(10.0 * len(timeline().host_us))
    assert sum(spans.total_us for spans in tracks.families.values()) == pytest.approx(run.device_busy_us)
    assert list(tracks.families) == ["gemm", "conv", "attention"]
    assert len(tracks.marks) == STEPS
    assert tracks.full.total_us == 0.0


def test_a_full_queue_is_no_wait() -> None:
    from msgspec.structs import replace

    tracks = tracks_of(replace(timeline(), pending_limit=1))
    assert tracks.full.total_us > 0.0
    assert len(tracks.marks) == STEPS


def test_parts_join_the_spans_of_a_step() -> None:
    tracks = tracks_of(timeline())
    names = ["encode", "step 1", "step 2", "step 3", "decode"]
    assert [part.name for part in tracks.host_parts] == names
    assert [part.name for part in tracks.device_parts] == names
    for before, after in zip(tracks.host_parts, tracks.host_parts[1:], strict=False):
        assert before.end_us == after.start_us


def test_what_is_left_out_is_gone() -> None:
    tracks = tracks_of(timeline(), Without(waits=frozenset({0})))
    assert tracks.marks == ()
    assert tracks.waits.total_us == 0.0


def test_what_runs_at_a_time() -> None:
    tracks = tracks_of(timeline())
    assert tracks.host_event(5.0) == 0
    assert tracks.device_event(5.0) is None
    assert tracks.device_event(20.0) == 0
    assert tracks.host_event(tracks.total_us + 1) is None
    assert list(tracks.device_events(0.0, 60.0)) == [0, 1]
    mark = tracks.mark_beside(0.0, before=False)
    assert mark == tracks.marks[0]
    assert tracks.mark_beside(mark.start_us, before=False) == tracks.marks[1]
    assert tracks.mark_beside(mark.start_us, before=True) is None


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(TIMES, TIMES).map(sorted), max_size=20), TIMES, TIMES)
def test_busy_time_counts_overlaps_once(found: list[list[float]], one: float, other: float) -> None:
    spans = Stretches(sorted((start, end) for start, end in found))
    start, end = sorted((one, other))
    busy = spans.until(end) - spans.until(start)
    assert -1e-6 <= busy <= end - start + 1e-6
    assert spans.until(2e6) == pytest.approx(spans.total_us)


@settings(deadline=None, max_examples=60)
@given(st.floats(1, 1e7), st.lists(st.tuples(st.floats(0.01, 100), st.floats(0, 1)), max_size=12))
def test_a_window_never_leaves_the_call(total: float, moves: list[tuple[float, float]]) -> None:
    window = Window(0.0, total, total)
    for factor, place in moves:
        window = window.zoomed(factor, window.start_us + place * window.length_us)
        window = window.moved((place - 0.5) * total)
        assert window.start_us >= 0.0
        assert window.end_us <= total * (1 + 1e-9)
        assert window.length_us >= min(total, Window.LEAST_US) * (1 - 1e-9)


def test_zooming_keeps_its_place() -> None:
    window = Window(0.0, 1_000.0, 1_000.0).zoomed(0.5, 250.0)
    assert (window.start_us, window.end_us) == (125.0, 625.0)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1e6), st.floats(0.01, 1e7), st.integers(1, 12))
def test_ticks_are_few_round_and_inside(start: float, length: float, most: int) -> None:
    found = ticks(start, start + length, most)
    assert len(found) <= most + 1
    assert all(start <= tick < start + length for tick in found)


def test_times_are_as_fine_as_their_distance() -> None:
    assert time_text(200.0, 200.0) == "200 us"
    assert time_text(450_000.0, 50_000.0) == "450 ms"
    assert time_text(12_340.0, 20.0) == "12.34 ms"
    assert time_text(2_000_000.0, 1_000_000.0) == "2 s"
    assert ticks(0.0, 0.0, 5) == []
