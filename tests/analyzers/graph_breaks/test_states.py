"""Captures of models before and after their first call, of calls in a row, and of blocks compiled alone."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks, state_of
from diffprof.analyzers.graph_breaks.python_state import PythonState
from diffprof.analyzers.graph_breaks.recompile_rules import recompile_on_identity
from diffprof.analyzers.graph_breaks.rules import side_effect_in_graph
from tests.analyzers.graph_breaks import stateful
from tests.analyzers.graph_breaks.tiny import Small
from tests.builders import make_recording

STATEFUL = [
    stateful.Cached,
    stateful.Replaying,
    stateful.Collecting,
    stateful.Appending,
    stateful.Queued,
    stateful.Closed,
    stateful.Worldwide,
    stateful.Shared,
    stateful.Counting,
]


@pytest.mark.parametrize("kind", STATEFUL)
def test_state_is_seen_and_put_back(kind: type[Small]) -> None:
    model, other = kind(), Small()
    x = torch.ones(2, 4)
    before = PythonState([model, other])
    first = model(x)
    assert before.changed(model)
    assert not before.changed(other)
    after = PythonState([model])
    with before.applied():
        assert not before.changed(model)
        assert torch.equal(model(x), first)
        assert before.changed(model)
    assert not after.changed(model)
    before.restore()
    assert not before.changed(model)


def test_a_model_that_keeps_nothing_is_unchanged() -> None:
    model = Small()
    before = PythonState([model])
    model(torch.ones(2, 4))
    assert not before.changed(model)


@cache
def sections() -> dict[str, Any]:
    """One probe of four models, each called four times."""
    models = {
        "cached": stateful.Cached(),
        "replaying": stateful.Replaying(),
        "collecting": stateful.Collecting(),
        "plain": Small(),
    }
    return probe_graph_breaks(stateful.often(4, **models), None, cache=False)


@pytest.mark.slow
def test_what_breaks_only_cold_or_only_warm_says_so() -> None:
    rows = {row.component: row for row in sections()["graph_breaks"]}
    assert {name: (row.state, row.count) for name, row in rows.items()} == {
        "cached": ("cold", 1),
        "replaying": ("warm", 4),
    }
    assert rows["cached"].site.function == "forward"
    assert "making the table" in dict(rows["cached"].site.excerpt)[rows["cached"].site.line]
    captures = {row.component: row for row in sections()["captures"]}
    whole = {name: (row.keeps_state, row.fullgraph_ready) for name, row in captures.items()}
    assert whole == {
        "cached": (True, False),
        "replaying": (True, False),
        "collecting": (True, True),
        "plain": (False, True),
    }
    recording = make_recording(graph_breaks=sections()["graph_breaks"])
    cold, warm = side_effect_in_graph(recording)
    assert "Only the first call in a process breaks there" in cold.message
    assert "The first call in a process does not break there" in warm.message


@pytest.mark.slow
def test_a_growing_dictionary_recompiles_in_every_call() -> None:
    """Dynamo compiles four versions in four calls: its guard is on the length."""
    rows = [row for row in sections()["recompiles"] if row.component == "collecting"]
    assert sum(row.count for row in rows) == 3
    assert {row.kind for row in rows} == {"type"}
    assert {row.variation for row in rows} == {"within one call"}
    assert {row.entries for row in rows} == {4}
    assert all("collecting.processor.kept" in row.guard for row in rows)
    (finding,) = recompile_on_identity(make_recording(recompiles=tuple(rows)))
    assert finding.count == 3
    assert "because an object has another type or size, 3 times" in finding.message
    assert finding.advice == "Keep it out of the compiled part, or of one size."


@pytest.mark.slow
def test_a_model_that_keeps_a_table_recompiles_once_and_a_plain_one_never() -> None:
    found = {row.component: row for row in sections()["recompiles"] if row.component != "collecting"}
    assert {name: row.count for name, row in found.items()} == {"cached": 1, "replaying": 1}
    assert "table is None" in found["cached"].guard
    (finding,) = recompile_on_identity(make_recording(recompiles=(found["cached"],)))
    assert finding.advice.startswith("Have it in every call, or in none")
    assert finding.fixes == ()


@pytest.mark.slow
def test_what_is_called_once_is_called_as_the_next_call_does() -> None:
    call = stateful.often(1, appending=stateful.Appending(), plain=Small())
    rows = probe_graph_breaks(call, None, cache=False)["recompiles"]
    assert {(row.component, row.variation) for row in rows} == {("appending", "in the next call")}
    assert sum(row.count for row in rows) == 2


@pytest.mark.nightly
def test_counters_recompile_up_to_the_limit() -> None:
    models = {
        "appending": stateful.Appending(),
        "closed": stateful.Closed(),
        "worldwide": stateful.Worldwide(),
        "counting": stateful.Counting(),
    }
    found = probe_graph_breaks(stateful.often(12, **models), None, cache=False)
    limit = torch._dynamo.config.recompile_limit
    for name in models:
        rows = [row for row in found["recompiles"] if row.component == name]
        assert sum(row.count for row in rows) == limit - 1, name
        assert all(row.limit_hit for row in rows), name


@pytest.mark.slow
def test_a_call_before_the_probe_does_not_hide_what_is_cold() -> None:
    call = stateful.often(2, cached=stateful.Cached())
    cold = state_of(call.pipe)
    call.run()
    (row,) = probe_graph_breaks(call, None, cache=False, cold=cold)["graph_breaks"]
    assert row.state == "cold"
    assert call.pipe.components["cached"].table is not None
    (late,) = probe_graph_breaks(call, None, cache=False)["captures"]
    assert (late.keeps_state, late.fullgraph_ready) == (False, True)


# --- regional compilation ------------------------------------------------------------------------------


def _each(model: stateful.Blocks) -> None:
    for block in model.blocks:
        block.compile(fullgraph=True)


def _wrapped(model: stateful.Blocks) -> None:
    for number, block in enumerate(model.blocks):
        model.blocks[number] = torch.compile(block)


def _methods(model: stateful.Blocks) -> None:
    for block in model.blocks:
        block.forward = torch.compile(block.forward)


@pytest.mark.slow
def test_blocks_are_captured_as_they_are_compiled() -> None:
    ways = {way.__name__: stateful.Blocks(1, 1, 1) for way in (_each, _wrapped, _methods)}
    for way in (_each, _wrapped, _methods):
        way(ways[way.__name__])
    ways["other"] = stateful.Blocks(1, 2, 3)
    _each(ways["other"])
    found = probe_graph_breaks(stateful.often(2, **ways), None, cache=False)
    captures = {row.component: row for row in found["captures"]}
    for name in ("_each", "_wrapped", "_methods"):
        row = captures[name]
        assert row.compiled == {"Block": 3}, name
        assert (row.graphs, row.regions_per_call, row.breaks, row.failure) == (1, 3, 0, None), name
        assert row.fullgraph_ready, name
    assert not found["graph_breaks"], "what stands beside the blocks is not compiled"
    assert captures["other"].graphs == 3
    rows = found["recompiles"]
    assert {(row.component, row.kind, row.variation) for row in rows} == {
        ("other", "scalar", "within one call")
    }
    assert sum(row.count for row in rows) == 2
    assert all("factor" in row.guard for row in rows)
