"""The tree of graphs, their breaks and recompiles."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot

from diffprof.views.tui.article import Article
from diffprof.views.tui.graphs_pane import GraphTree
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled


@pytest.mark.slow
def test_graph_tree(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("4")
        tree = pilot.app.screen.query_one(GraphTree)
        assert "unet" in str(tree.cursor_node.label)  # type: ignore[union-attr]
        await pilot.press("down", "right")
        assert "Use torch.cond." in await settled(pilot)
        await pilot.press("left")
        assert "hint: Use torch.cond." not in await settled(pilot)
        await pilot.press("f")
        assert "hint: Use torch.cond." in await settled(pilot)
        await pilot.press("d")
        assert isinstance(pilot.app.focused, Article)
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, GraphTree)

    drive(reports.full(), body, size=(120, 40))
