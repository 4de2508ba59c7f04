"""Keys, tabs, help, palette and sizes of the whole viewer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot
from textual.widgets import ContentSwitcher

from diffprof.judge.plan import make_plan
from diffprof.model.report import save_report
from diffprof.views import tui
from diffprof.views.tui.app import Viewer
from diffprof.views.tui.finding_list import FindingList
from diffprof.views.tui.help_screen import HelpScreen
from diffprof.views.tui.kernels_pane import KernelsPane
from diffprof.views.tui.plan_pane import PlanPane
from diffprof.views.tui.tab_strip import TabStrip
from diffprof.views.tui.table import TableView
from diffprof.views.tui.themes import DARK, LIGHT
from diffprof.views.tui.verdict_bar import VerdictBar
from tests import builders
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled, shows, until


@pytest.mark.slow
def test_numbers_and_clicks_open_tabs(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        switcher = pilot.app.screen.query_one(ContentSwitcher)
        for number in range(1, 9):
            await pilot.press(str(number))
            await until(pilot, lambda: switcher.current == f"pane-{number}", "open")  # noqa: B023
        await pilot.click(TabStrip, offset=(len(" 1 Findings 2 Timeline "), 0))
        await until(pilot, lambda: switcher.current == "pane-3", "clicked open")
        await until(pilot, lambda: isinstance(pilot.app.focused, TableView), "focused")

    drive(reports.full(), body)


@pytest.mark.slow
def test_help_verdict_theme_and_quit(drive: Drive, tmp_path: Path) -> None:
    settings = tmp_path / "config" / "viewer.json"

    async def body(pilot: Pilot) -> None:
        app = pilot.app
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "command palette: tabs, findings" in await settled(pilot)
        await pilot.press("escape")
        bar = app.screen.query_one(VerdictBar)
        await pilot.press("v")
        assert bar.size.height > 3
        assert "`diffprof explain SYN001` says more." in " ".join((await settled(pilot)).split())
        await pilot.click(VerdictBar)
        assert bar.size.height == 3
        assert app.theme == DARK
        await pilot.press("t")
        assert app.theme == LIGHT
        await pilot.press("q")
        assert not app.is_running or app._exit

    drive(reports.full(), body, settings=settings)
    assert LIGHT in settings.read_text()
    drive(reports.full(), _theme_is(LIGHT), settings=settings)


def _theme_is(name: str) -> Any:
    async def body(pilot: Pilot) -> None:
        assert pilot.app.theme == name

    return body


@pytest.mark.slow
def test_palette_goes_to_tabs_and_findings(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"kernels")
        await shows(pilot, "Open the tab (3)")
        await pilot.press("enter")
        await shows(pilot, "by kernel")
        assert pilot.app.screen.query(KernelsPane)
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"grb001")
        await shows(pilot, "GRB001 data-dependent-branch")
        await pilot.press("enter")
        await shows(pilot, "A graph ends here.")
        row = pilot.app.screen.query_one(FindingList).row
        assert row is not None
        assert row.rule == "GRB001"

    drive(reports.full(), body)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(20, 6), (40, 12), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size_of_screen(size: tuple[int, int], drive: Drive, fixed: None) -> None:
    async def body(pilot: Pilot) -> None:
        for key in ("2", "3", "4", "5", "6", "7", "8", "1", "down", "enter", "v", "question_mark"):
            await pilot.press(key)
            await settled(pilot)
        await pilot.press("escape")
        await pilot.resize_terminal(90, 30)
        assert "SYN001" in await settled(pilot)

    drive(reports.full(), body, size=size)


def test_a_viewer_that_broke_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(viewer: Viewer) -> None:
        viewer._return_code = 1

    monkeypatch.setattr(Viewer, "run", broken)
    with pytest.raises(RuntimeError, match="the viewer broke"):
        tui.view(reports.full(), tmp_path)


@pytest.mark.slow
def test_what_is_to_be_done_once_the_report_stands_is_done_once(drive: Drive, tmp_path: Path) -> None:
    calls: list[str] = []
    stored = save_report(reports.full(), tmp_path / "20260101-000000-a")

    async def body(pilot: Pilot) -> None:
        for _ in range(2):
            await pilot.press("8")
            await shows(pilot, "1 run in")
            await pilot.press("enter")
            await shows(pilot, "SYN001 value-read")
        await until(pilot, lambda: calls, "settled")
        await pilot.pause(0.7)  # longer than what comes before the first
        assert calls == ["settled"]

    drive(stored, body, traces=tmp_path, settled=lambda: calls.append("settled"))


@pytest.mark.slow
def test_brackets_go_from_one_pipeline_of_a_script_to_the_next(drive: Drive) -> None:
    base = reports.full()
    refiner = builders.replace_target(base, pipeline="Refiner")

    async def body(pilot: Pilot) -> None:
        shown = await settled(pilot)
        assert "1/2 StableDiffusionXLPipeline" in shown
        await pilot.press("right_square_bracket")
        assert "2/2 Refiner" in await settled(pilot)
        screen: Any = pilot.app.screen
        pane = PlanPane(screen.whole, make_plan(screen.report), Path("t"), None, screen.number)
        assert pane.command()[2:5] == ["--apply", "--pipeline", "2"]
        await pilot.press("right_square_bracket")
        assert "1/2 StableDiffusionXLPipeline" in await settled(pilot)
        await pilot.press("left_square_bracket")
        assert "2/2 Refiner" in await settled(pilot)

    drive(replace(base, pipelines=(refiner,)), body, size=(160, 40))

    async def alone(pilot: Pilot) -> None:
        assert "Next pipeline" not in await settled(pilot)

    drive(base, alone)
