"""The table of linears."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot

from diffprof.views.tui.table import TableView
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled


@pytest.mark.slow
def test_quantization_bars_and_code(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("5")
        text = await settled(pilot)
        assert "2.00x, measured" in text
        assert "0.80x, simulated" in text
        assert "no such cores" in text
        await pilot.press("down")
        assert "not measured" in await settled(pilot)
        await pilot.press("c")
        assert "No linear is worth quantizing here." in await settled(pilot)
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, TableView)

    drive(reports.full(), body, size=(120, 40))
