"""Hard models, held against what Dynamo itself does with them in a process of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from tests.analyzers.graph_breaks import adversarial
from tests.analyzers.graph_breaks.conftest import in_child
from tests.analyzers.graph_breaks.stateful import often
from tests.analyzers.graph_breaks.tiny import TinyCall

pytestmark = pytest.mark.nightly

X = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.5, 1.5, 2.5, 3.5]])
CALLS = 4


def probed(kinds: tuple[Any, ...], calls: int) -> dict[str, Any]:
    call = often(calls, **{kind.__name__: kind() for kind in kinds})
    found = probe_graph_breaks(TinyCall(call.pipe, {"x": X}), None, cache=False)
    assert not found["unseen"]
    return found


def test_compiles_are_as_many_as_dynamo_makes() -> None:
    expected = in_child(
        lambda: {kind.__name__: adversarial.compiles(kind(), X, CALLS) for kind in adversarial.STATES}
    )
    found = Counter[str]()
    for row in probed(adversarial.STATES, CALLS)["recompiles"]:
        found[row.component] += row.count
    assert dict(found) == expected
    assert min(expected.values()) >= 1


def test_breaks_are_where_they_are_marked_cold_or_warm() -> None:
    lines = Path(adversarial.__file__).read_text(encoding="utf-8").splitlines()
    rows = probed(adversarial.BREAKING, 2)["graph_breaks"]
    for kind in adversarial.BREAKING:
        begin = kind.forward.__code__.co_firstlineno
        marked = next(
            n for n, line in enumerate(lines, 1) if n > begin and line.endswith(("# cold", "# warm"))
        )
        state = lines[marked - 1].rpartition("# ")[2]
        mine = {(row.site.line, row.state, row.count) for row in rows if row.component == kind.__name__}
        assert mine == {(marked, state, 1 if state == "cold" else 2)}, kind


def test_operations_on_complex_numbers_are_those_of_the_graph() -> None:
    expected = in_child(
        lambda: {kind.__name__: adversarial.complex_nodes(kind(), X) for kind in adversarial.COMPLEX}
    )
    found: dict[str, dict[int, int]] = {name: {} for name in expected}
    for row in probed(adversarial.COMPLEX, 1)["complex_numbers"]:
        found[row.component][row.site.line] = sum(row.ops.values())
    assert found == expected
    assert [name for name, nodes in expected.items() if not nodes] == ["Small"]


def test_inputs_that_share_memory_are_captured_once() -> None:
    found = probe_graph_breaks(TinyCall(adversarial.Giving(), {"x": X}), None, cache=False)
    rows = {row.component: (row.failure, row.fullgraph_ready, row.calls) for row in found["captures"]}
    assert rows == dict.fromkeys(adversarial.SHARED, (None, True, 2))
    assert found["recompiles"] == found["graph_breaks"] == found["unseen"] == ()
