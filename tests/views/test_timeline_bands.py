"""Pictures of a timeline: what a column shows, and marks that lead somewhere."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from diffprof.judge.judging import make_report
from diffprof.judge.timeline import replay
from diffprof.views import render
from diffprof.views.timeline_bands import FULL, IDLE, WAITS, WORKS, one_step, whole_call
from tests.views.tensorboard.recorded import ADD_US, ATTEND_US, GEMM_US, STEPS, make_run, make_timeline


def length(bands: tuple, what: str) -> float:
    return sum(band.end_us - band.start_us for band in bands if band.what == what)


def test_tracks_cover_the_call_without_overlap() -> None:
    timeline = make_timeline()
    run = replay(timeline)
    tracks = whole_call(timeline, run, 200)
    for bands in (tracks.host, tracks.device):
        assert bands[0].start_us == 0
        assert all(a.end_us == pytest.approx(b.start_us) for a, b in pairwise(bands))
        assert bands[-1].end_us == pytest.approx(run.total_us, rel=0.02)


@pytest.mark.parametrize("columns", [300, 3000])
def test_tracks_show_times_as_they_are(columns: int) -> None:
    timeline = make_timeline()
    run = replay(timeline)
    tracks = whole_call(timeline, run, columns)
    near = pytest.approx
    assert length(tracks.device, "gemm") == near(100 * (STEPS + 1), rel=0.05)
    assert length(tracks.device, "attention") == near(40 * STEPS, rel=0.1)
    assert length(tracks.host, WAITS) == near(sum(run.blocked_us.values()), rel=0.05)
    assert length(tracks.device, IDLE) == near(run.total_us - run.device_busy_us, rel=0.2)


def test_a_full_launch_queue_is_no_work() -> None:
    timeline = make_timeline(pending_limit=1)
    tracks = whole_call(timeline, replay(timeline), 500)
    assert length(tracks.host, FULL) > 0
    assert (
        length(tracks.host, WORKS)
        < length(whole_call(make_timeline(), replay(timeline), 500).host, WORKS) * 2
    )


def test_the_step_shown_is_a_steady_one() -> None:
    timeline = make_timeline()
    found = one_step(timeline, replay(timeline), 100)
    assert found is not None
    number, tracks = found
    assert number == 1
    assert tracks.phases[0].what == "denoise 2"
    assert [mark.row for mark in tracks.marks] == [0]


def test_a_step_lasts_as_long_as_on_the_device_however_far_ahead_the_host_is() -> None:
    """The host has issued the second step long before the device begins with it."""
    waitless = make_timeline(sync=(-1,) * len(make_timeline().sync), sync_latency_us=0.0)
    found = one_step(waitless, replay(waitless), 100)
    assert found is not None
    number, tracks = found
    assert number == 1
    assert tracks.end_us - tracks.start_us == pytest.approx(GEMM_US + ATTEND_US + ADD_US)
    assert [band.what for band in tracks.phases] == ["denoise 2"]
    assert length(tracks.device, IDLE) == 0


def test_no_step_no_picture() -> None:
    timeline = make_timeline(phases=())
    assert one_step(timeline, replay(timeline), 100) is None


def test_marks_of_the_page_lead_to_findings_that_are_there() -> None:
    report = make_report(make_run())
    page = render(report, "html")
    ids = set(re.findall(r' id="([\w-]+)"', page))
    links = set(re.findall(r'href="#([\w-]+)"', page))
    waiting = [f"finding-{n}" for n, f in enumerate(report.findings, 1) if f.evidence.syncs]
    assert waiting
    assert links & set(waiting)
    assert {link for link in links if link.startswith("finding-")} <= set(waiting)
    assert links <= ids


def test_a_page_without_timeline_has_no_empty_section() -> None:
    page = render(make_report(make_run(timeline=None)), "html")
    assert "<svg" not in page
    assert 'id="timeline"' not in page
