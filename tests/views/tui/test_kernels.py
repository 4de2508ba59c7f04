"""The table of kernels: groups, what is inside of them, search."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot

from diffprof.views.tui.kernels_pane import KernelsPane
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, table


@pytest.mark.slow
def test_kernels_group_open_and_search(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("3")
        pane = pilot.app.screen.query_one(KernelsPane)
        rows = table(pilot, "KernelsPane")
        assert [(g.name, g.count) for g in rows.rows] == [("linear", 10), ("conv2d", 2), ("flash_fwd", 3)]
        ways = []
        for _ in range(6):
            await pilot.press("g")
            ways.append(pane.by)
        assert ways == ["op", "shape", "family", "module", "phase", "kernel"]
        await pilot.press("enter")
        assert pane.by == "module"
        assert {g.name for g in rows.rows} == {"unet.down_blocks.0", "text_encoder.layers.0"}
        assert sum(g.share for g in rows.rows) == pytest.approx(400 / 650)
        await pilot.press("minus", "minus")
        assert {g.name for g in rows.rows} == {"unet", "text_encoder"}
        await pilot.press("plus")
        assert {g.name for g in rows.rows} == {"unet.down_blocks", "text_encoder.layers"}
        await pilot.press("backspace")
        assert pane.by == "kernel"
        await pilot.press("slash", *"flash", "enter")
        assert [g.name for g in rows.rows] == ["flash_fwd"]
        await pilot.press("x")
        assert len(rows.rows) == 3

    drive(reports.full(), body)
