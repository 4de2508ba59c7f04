"""The timeline by key and mouse."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot

from diffprof.model.finding import Evidence
from diffprof.views.tui.finding_list import FindingList
from diffprof.views.tui.timeline_view import LABEL, TimelineView
from tests import builders
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled, shows


@pytest.mark.slow
def test_timeline_keys(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("2")
        view = pilot.app.screen.query_one(TimelineView)
        total = view.tracks.total_us
        assert (view.window.start_us, view.window.end_us) == (0.0, total)
        await pilot.press("right", "right", "left")
        assert view.cursor == 1
        await pilot.press("n")
        assert (
            len(view.tracks.marks_in(view.cursor_us - view.column_us, view.cursor_us + view.column_us)) == 1
        )
        first = view.cursor
        await pilot.press("n")
        assert view.cursor > first
        await pilot.press("N")
        assert view.cursor == first
        await pilot.press("plus")
        assert view.window.length_us == pytest.approx(total / 2)
        await pilot.press("minus")
        assert view.window.length_us == pytest.approx(total)
        await pilot.press("plus", "plus", "l")
        moved = view.window.start_us
        await pilot.press("l")
        assert view.window.start_us == pytest.approx(moved + total / 16)
        await pilot.press("h", "h")
        assert view.window.start_us == pytest.approx(moved - total / 16)
        await pilot.press("end")
        assert view.window.end_us == pytest.approx(total)
        await pilot.press("home")
        assert view.window.start_us == 0.0
        await pilot.press("0")
        assert view.window.length_us == pytest.approx(total)
        await pilot.press("n", "z")
        step = view.tracks.host_parts[1]
        assert view.window.start_us < step.start_us
        assert view.window.end_us > step.end_us
        assert view.window.length_us == pytest.approx(1.1 * (step.end_us - step.start_us))
        await pilot.press("z")
        assert view.window.length_us == pytest.approx(total)
        await pilot.press("n", "enter")
        await settled(pilot)
        row = pilot.app.screen.query_one(FindingList).row
        assert row is not None
        assert row.rule == "SYN001"

    drive(reports.full(), body)


@pytest.mark.slow
def test_enter_opens_the_finding_of_the_wait_itself_before_one_of_all_waits(drive: Drive) -> None:
    full = reports.full()
    all_waits = builders.make_finding(
        "KRN002", "sync-bubble", site=None, evidence=Evidence(syncs=(0,), events=(1, 5))
    )
    report = replace(full, findings=(all_waits, *full.findings))

    async def body(pilot: Pilot) -> None:
        await pilot.press("2", "n", "enter")
        await shows(pilot, "A device value is read by Python.")
        row = pilot.app.screen.query_one(FindingList).row
        assert row is not None
        assert row.rule == "SYN001"

    drive(report, body)


@pytest.mark.slow
def test_timeline_mouse(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("2")
        view = pilot.app.screen.query_one(TimelineView)
        await pilot.click(TimelineView, offset=(LABEL + 20, 4))
        assert view.cursor == 20
        total = view.tracks.total_us
        await pilot._post_mouse_events([_scroll("MouseScrollUp")], TimelineView, offset=(LABEL + 10, 4))
        assert view.window.length_us == pytest.approx(total / 2)
        before = view.window.start_us
        await pilot.mouse_down(TimelineView, offset=(LABEL + 30, 4))
        await pilot.hover(TimelineView, offset=(LABEL + 20, 4))
        await pilot.mouse_up(TimelineView, offset=(LABEL + 20, 4))
        assert view.window.start_us == pytest.approx(before + 10 * view.column_us)
        await pilot.click(TimelineView, offset=(LABEL + 2, 0))
        assert view.window.start_us == 0.0

    drive(reports.full(), body)


def _scroll(name: str) -> Any:
    from textual import events

    return getattr(events, name)
