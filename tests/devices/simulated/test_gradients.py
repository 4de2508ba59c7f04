"""Gradients through the simulated device: guidance differentiates the denoiser within the loop."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode
from diffprof.gpu.specs import load_spec
from tests.devices.simulated.conftest import Recorder

HEADS, QUERIES, KEYS, SIZE = 8, 16384, 8192, 64
"""Larger than what the device keeps the values of."""


@pytest.mark.parametrize("masked", [False, True])
def test_attention_stays_fused_where_a_gradient_is_wanted(
    sim: torch.device, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    """As on CUDA: one kernel forward and one backward, nothing in float32, no product and no softmax."""
    monkeypatch.setattr(SESSION, "unknown", True)
    shapes = (QUERIES, KEYS, KEYS)
    q, k, v = (
        torch.empty(1, HEADS, n, SIZE, dtype=torch.float16, device=sim).requires_grad_() for n in shapes
    )
    mask = torch.empty(QUERIES, KEYS, dtype=torch.float16, device=sim) if masked else None
    recorder.ops.clear()

    out = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    grads = torch.autograd.grad(out, (q, k, v), torch.empty_like(out))

    assert [(g.shape, g.dtype) for g in grads] == [(x.shape, torch.float16) for x in (q, k, v)]
    model = CostModel(load_spec("a100-80gb"), Mode())
    kernels = [kernel for op in recorder.ops for kernel in model.kernels(op)]
    products = 4 * HEADS * QUERIES * KEYS * SIZE
    work = [(k.family, k.flops) for k in kernels if k.flops]
    assert work == [("attention", pytest.approx(products)), ("attention", pytest.approx(2.5 * products))]
    assert recorder.waits == []


def test_values_that_are_known_have_their_real_gradients(sim: torch.device) -> None:
    torch.manual_seed(0)
    host = [torch.randn(1, 2, 5, 4, requires_grad=True) for _ in range(3)]
    device = [x.detach().to(sim).requires_grad_() for x in host]
    wanted = torch.autograd.grad(scaled_dot_product_attention(*host).sum(), host)
    got = torch.autograd.grad(scaled_dot_product_attention(*device).sum(), device)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a.cpu(), b)
