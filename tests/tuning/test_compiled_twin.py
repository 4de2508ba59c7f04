"""The backend that a twin is compiled with computes what AOTAutograd makes with Inductor's decompositions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from diffprof.tuning.compiled_twin import decomposing


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
