"""The backend that a twin is compiled with computes what AOTAutograd makes with Inductor's decompositions;
equal blocks are captured once."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from diffprof.tuning.compiled_twin import WritesState, decomposing, folded


class Block(torch.nn.Module):
    """A normalization and an activation that Inductor takes apart, in another order of rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.GroupNorm(2, 16)
        self.linear = torch.nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.silu(self.linear(self.norm(x))).softmax(-1)


def called(model: torch.nn.Module, x: torch.Tensor, backend: Any) -> torch.Tensor:
    torch._dynamo.reset()
    with torch.no_grad():
        return torch.compile(model, backend=backend, fullgraph=True)(x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_captured_graph_computes_what_aot_autograd_makes_of_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = Block().to(dtype), torch.randn(64, 16, dtype=dtype)
    counters.clear()
    ours = called(model, x, decomposing)
    assert counters["stats"]["unique_graphs"] == 1
    assert torch.equal(ours, called(model, x, "aot_eager_decomp_partition"))
    if dtype is torch.float32:  # in bfloat16 both may round to the same
        with torch.no_grad():
            assert not torch.equal(ours, model(x))


class Call:
    """A call of a model of four equal blocks, one of which may have a state of its own."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.pipe = model

    def run(self) -> torch.Tensor:
        with torch.no_grad():
            return self.pipe(torch.ones(8, 16))


class Wide(Block):
    """One of them, large enough to be worth capturing once."""

    def __init__(self) -> None:
        super().__init__()
        self.rest = torch.nn.Sequential(*(torch.nn.Linear(16, 16) for _ in range(40)))
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(super().forward(x))


class Counting(Wide):
    """Its code writes what the code around it may read."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "graphs"), [(Wide, 3), (Counting, 1)])
def test_equal_blocks_are_captured_once_and_each_runs_with_its_own_weights(kind: Any, graphs: int) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(kind() for _ in range(4)))
    twin: Any = SimpleNamespace(call=Call(model))
    whole = called(model, torch.ones(8, 16), decomposing)
    torch._dynamo.reset()
    counters.clear()
    with ExitStack() as folds:
        run = torch.compile(model, backend=decomposing, fullgraph=True)
        assert folded(twin, [(model, {"fullgraph": True})], folds)
        with torch.no_grad():
            if graphs == 1:
                with pytest.raises(WritesState):
                    run(torch.ones(8, 16))
                return
            assert torch.equal(run(torch.ones(8, 16)), whole)
    assert counters["stats"]["unique_graphs"] == graphs
    assert {type(block) for block in model} == {kind}
