"""`torch.autocast("sim")` casts as CUDA's does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from diffprof.devices.simulated import place

from .conftest import Recorder

LOW, FULL = torch.bfloat16, torch.float32
POLICY: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.dtype, torch.dtype]] = {
    # op, input type, output type
    "linear": (lambda x: F.linear(x, x), FULL, LOW),
    "matmul": (lambda x: x @ x, FULL, LOW),
    "einsum": (lambda x: torch.einsum("ij,jk->ik", x, x), FULL, LOW),
    "conv": (lambda x: F.conv1d(x[None], x[:, :, None]), FULL, LOW),
    "attention": (lambda x: F.scaled_dot_product_attention(*[x[None, None]] * 3), FULL, LOW),
    "softmax": (lambda x: x.softmax(-1), LOW, FULL),
    "sum": (lambda x: x.sum(), LOW, FULL),
    "sum, asked for": (lambda x: x.sum(dtype=LOW), LOW, LOW),
    "layer_norm": (lambda x: F.layer_norm(x, (2,)), LOW, FULL),
    "group_norm": (lambda x: F.group_norm(x[None], 1), LOW, FULL),
    "exp": (lambda x: x.exp(), LOW, FULL),
    "pow": (lambda x: x**2, LOW, FULL),
    "norm": (lambda x: torch.linalg.vector_norm(x), LOW, FULL),
    "mse_loss": (lambda x: F.mse_loss(x, x), LOW, FULL),
    "interpolate": (lambda x: F.interpolate(x[None], 4), LOW, FULL),
    "addcmul, widest": (lambda x: torch.addcmul(x, x.float(), x), LOW, FULL),
    "addcmul, alike": (lambda x: torch.addcmul(x, x, x), LOW, LOW),
    "add": (lambda x: x + x, LOW, LOW),
    "silu": (F.silu, LOW, LOW),
    "float64 is left alone": (lambda x: x @ x, torch.float64, torch.float64),
    "integers are left alone": (lambda x: x + 1, torch.int64, torch.int64),
}


@pytest.mark.parametrize("name", POLICY)
@pytest.mark.parametrize("values", ["known", "unknown"])
def test_policy(name: str, values: Any, sim: torch.device) -> None:
    op, given, expected = POLICY[name]
    x = place(torch.ones(2, 2, dtype=given), values=values)
    with torch.no_grad(), torch.autocast("sim", dtype=LOW):
        assert op(x).dtype == expected
    assert F.linear(x.float(), x.float()).dtype == FULL


def test_cast_weights_are_kept_until_the_end(sim: torch.device, recorder: Recorder) -> None:
    m = place(torch.nn.Linear(2, 2, bias=False), values="known")
    x = torch.ones(1, 2, device=sim, dtype=LOW)
    for _ in range(2):
        recorder.ops.clear()
        with torch.autocast("sim", dtype=LOW):
            m(x)
            m(x)
        assert recorder.names()["_to_copy"] == 1
    recorder.ops.clear()
    with torch.autocast("sim", dtype=LOW, cache_enabled=False):
        m(x)
        m(x)
    assert recorder.names()["_to_copy"] == 2


def test_weights_that_are_kept_can_be_moved(sim: torch.device) -> None:
    """As model offloading does while autocast is on."""
    m, x = place(torch.nn.Linear(2, 2), values="known"), torch.ones(2, 2, device=sim)
    with torch.autocast("sim", dtype=LOW):
        m(x)
        m.to("cpu")
        m.to(sim)
        assert m(x).dtype == LOW


def test_what_is_unsafe_is_refused(sim: torch.device) -> None:
    x = torch.full((2,), 0.5, device=sim)
    with torch.autocast("sim", dtype=LOW), pytest.raises(RuntimeError, match="unsafe to autocast"):
        F.binary_cross_entropy(x, x)


def test_values_equal_a_manual_cast(sim: torch.device) -> None:
    torch.manual_seed(0)
    m, x = torch.nn.Linear(8, 4), torch.randn(3, 8)
    expected = F.linear(x.to(LOW), m.weight.to(LOW), m.bias.to(LOW))
    with torch.no_grad(), torch.autocast("sim", dtype=LOW):
        got = place(m, values="known")(x.to(sim))
    assert torch.equal(got.cpu(), expected)
