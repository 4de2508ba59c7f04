"""A sweep in the viewer: what no other row beats, curves, all rows."""

from __future__ import annotations

from textual.pilot import Pilot

from diffprof.judge.frontier import Curve
from diffprof.views.tui.sweep_screen import SweepScreen
from diffprof.views.tui.table import TableView
from tests.views.test_sweeps import ROWS
from tests.views.tui.conftest import Drive, shows


def test_tabs_show_the_frontier_the_curves_and_every_row(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        pilot.app.push_screen(SweepScreen(ROWS))
        text = await shows(pilot, "Frontier", "7 rows of 3 runs", "eager, batch 1", "2 s, simulated")
        assert "a10" not in text
        await pilot.press("down")
        await shows(pilot, "sdxl on h100, eager, batch 2", "12.0 GiB of 80")
        await pilot.press("2")
        await shows(pilot, "1: 2, 2: 1.5, 4: 1.75", "█▇█")
        curves = pilot.app.screen.query_one("#tab-2", TableView)
        first: Curve = curves.rows[0]
        assert [first.device, len(curves.rows)] == ["h100", 2]
        await pilot.press("3")
        await shows(pilot, "does not fit", "no\\nweights")
        assert len(pilot.app.screen.query_one("#tab-3", TableView).rows) == 7

    drive(None, body, size=(140, 30))
