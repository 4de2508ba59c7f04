"""The figures on either side of a threshold of the rules."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from diffprof.judge.judging import make_report
from diffprof.judge.pricing import HIDDEN
from diffprof.model.recording import BreakCost
from tests.analyzers.graph_breaks.examples import BAD


@pytest.mark.parametrize(("saves_ms", "hidden"), [(0.0045, True), (0.0055, False)])
def test_two_graphs_more_are_hidden_below_a_twentieth_of_their_launches(
    saves_ms: float, hidden: bool
) -> None:
    """The launch of a CUDA graph takes 0.05 ms of the CPU."""
    recording = BAD["GRB001"]
    cost = BreakCost(saves_ms=saves_ms, graphs=2, call_ms=100.0, compiled=("unet",))
    rows = tuple(replace(row, cost=cost) for row in recording.graph_breaks or ())
    (found,) = make_report(replace(recording, graph_breaks=rows)).findings
    assert found.cost_note is not None
    assert (HIDDEN in found.cost_note) is hidden
