"""The stored runs: open, mark, compare."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from textual.pilot import Pilot

from diffprof.model.ladder import save_ladder
from diffprof.model.prediction import save_predictions
from diffprof.model.report import save_report
from diffprof.views.tui.runs_pane import RunsPane
from tests import builders
from tests.views.tensorboard.recorded import make_ladder, make_predictions
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, shows, table


@pytest.mark.slow
def test_runs_open_mark_and_compare(drive: Drive, tmp_path: Path) -> None:
    one = save_report(reports.full(), tmp_path / "20260101-000000-a")
    save_report(builders.empty(), tmp_path / "20260102-000000-b")
    damaged = tmp_path / "20260103-000000-c"
    damaged.mkdir()
    (damaged / "report.json").write_text("{")

    async def body(pilot: Pilot) -> None:
        await pilot.press("8")
        await shows(pilot, "3 runs in", "damaged")
        rows = table(pilot, "RunsPane")
        assert rows.row
        assert rows.row.name == "20260101-000000-a"
        await pilot.press("up", "c")
        await shows(pilot, "Better:", "blocking operations in the loop")
        await pilot.press("escape", "space", "down", "space")
        text = await shows(pilot, "c compares A with B")
        assert re.search(r"A +20260102-000000-b", text)
        assert re.search(r"B +20260101-000000-a", text)
        await pilot.press("c")
        await shows(pilot, "Worse:")
        await pilot.press("escape", "home", "enter")
        await shows(pilot, "is not a diffprof report")
        await pilot.press("down", "enter")
        await shows(pilot, "No operation makes the CPU wait", "No finding;")

    drive(one, body, traces=tmp_path, size=(120, 40))


@pytest.mark.slow
def test_ladders_and_predictions_are_listed_and_shown_and_are_no_reports(
    drive: Drive, tmp_path: Path
) -> None:
    one = save_report(reports.full(), tmp_path / "20260101-000000-a")
    (tmp_path / "20260102-000000-b").mkdir()
    save_ladder(make_ladder(), tmp_path / "20260102-000000-b")
    (tmp_path / "20260103-000000-c").mkdir()
    save_predictions(make_predictions(), tmp_path / "20260103-000000-c")

    async def body(pilot: Pilot) -> None:
        await pilot.press("8")
        text = await shows(pilot, "3 runs in")
        assert re.search(r"20260103-000000-c +flux +h100, l40s .*prediction", text)
        assert re.search(r"20260102-000000-b +sdxl +sim:a100-80gb .*ladder", text)
        await pilot.press("home", "space", "enter")
        await shows(pilot, "calls/s", "1.23 ± 10 %", "does not fit")
        await pilot.press("escape", "home", "down", "space", "enter")
        title, seconds = make_ladder().rungs[0].title, make_ladder().rungs[0].seconds
        await shows(pilot, title[:20], f"{seconds:.3f}")
        assert pilot.app.screen.query_one(RunsPane).marked == []

    drive(one, body, traces=tmp_path, size=(120, 40))


def test_ages_tick(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = save_report(reports.full(), tmp_path / "20260101-000000-a")
    monkeypatch.setattr("diffprof.views.tui.runs_pane._TICK_S", 0.02)
    then = datetime.datetime.fromisoformat(stored.recording.created)

    async def body(pilot: Pilot) -> None:
        await pilot.press("8")
        pane = pilot.app.screen.query_one(RunsPane)
        pane.clock = lambda: then + datetime.timedelta(seconds=59)
        await shows(pilot, "59 s ago")
        pane.clock = lambda: then + datetime.timedelta(seconds=61)
        await shows(pilot, "1 min ago")

    drive(stored, body, traces=tmp_path, size=(120, 40))
