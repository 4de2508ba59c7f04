"""Inference mode: which tensors are inference tensors, and what may be done with them, is as on a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffprof.corpus import CASES
from diffprof.devices.simulated import place, simulated_gpu

OPS: dict[str, Callable[[torch.Tensor], Any]] = {
    "slice": lambda x: x[:, 1:],
    "select": lambda x: x[0],
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "alias": lambda x: torch.ops.aten.alias(x),
    "transpose": lambda x: x.transpose(0, 1),
    "view": lambda x: x.view(-1),
    "view as integers": lambda x: x.view(torch.int32) + 0,
    "reshape": lambda x: x.reshape(-1),
    "reshape that copies": lambda x: x.t().reshape(-1),
    "flatten": lambda x: x.flatten(0),
    "expand": lambda x: x[:1].expand(5, 4),
    "squeeze": lambda x: x.squeeze(0),
    "unfold": lambda x: x.unfold(1, 2, 1),
    "diagonal": lambda x: x.diagonal(),
    "as_strided": lambda x: x.as_strided((2, 2), (1, 1)),
    "chunk": lambda x: x.chunk(2, dim=1),
    "split": lambda x: x.split([1, 3], dim=1),
    "unbind": lambda x: x.unbind(0),
    "to the same": lambda x: x.to(torch.float32),
    "contiguous": lambda x: x.contiguous(),
    "gathered": lambda x: x[[0, 1]],
    "sum": lambda x: x + x,
    "matmul": lambda x: x @ x.t(),
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x[None], x[None], x[None]),
    "add_": lambda x: x.add_(1),
    "a view is written": lambda x: (x[0].mul_(2), x)[1],
    "setitem": lambda x: (x.__setitem__((0, slice(None)), 3.0), x)[1],
    "copy_": lambda x: x.copy_(torch.ones(3, 4, device=x.device)),
    "zero_": lambda x: x.zero_(),
    "out": lambda x: torch.add(x, x, out=x),
    "unsqueeze_": lambda x: x.unsqueeze_(0),
    "t_": lambda x: x.t_(),
    "resize_": lambda x: x.resize_(4, 4)[:1, :4],
    "set_": lambda x: x.set_(x.clone()),
    "parameter": lambda x: torch.nn.Parameter(x),
}


def outcome(op: Callable, inside: tuple[bool, bool], start: Callable[[], torch.Tensor]) -> list[Any]:
    """Which results are inference tensors, and their values; or that it fails."""
    made, used = inside
    with torch.no_grad():
        with torch.inference_mode(made):
            x = start()
        try:
            with torch.inference_mode(used):
                results = op(x)
        except RuntimeError:
            return ["fails"]
        results = results if isinstance(results, tuple) else (results,)
        return [(t.is_inference(), t.detach().cpu()) for t in results]


@pytest.mark.parametrize("inside", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("name", OPS)
def test_as_on_the_cpu(name: str, inside: tuple[bool, bool], sim: torch.device) -> None:
    def start() -> torch.Tensor:
        return torch.arange(12.0).view(3, 4).clone()

    on_cpu = outcome(OPS[name], inside, start)
    on_sim = outcome(OPS[name], inside, lambda: start().to(sim))
    unknown = outcome(OPS[name], inside, lambda: place(start(), values="unknown"))
    assert len(on_cpu) == len(on_sim) == len(unknown)
    if on_cpu == ["fails"]:
        assert on_sim == unknown == on_cpu
        return
    for (expected, values), (got, known), (blank, shaped) in zip(on_cpu, on_sim, unknown, strict=True):
        assert got is expected
        assert blank is expected
        assert torch.equal(known, values)
        assert shaped.shape == values.shape


def test_known_values_survive_the_mode(sim: torch.device) -> None:
    """Memory that was unknown and is overwritten inside is written again outside."""
    with torch.no_grad():
        x = place(torch.ones(4), values="unknown")
        with torch.inference_mode():
            x.zero_()
            x[1:].fill_(2)
            x.copy_(torch.arange(4.0))
        x[0].add_(5)
        assert x.tolist() == [5, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["sdxl", "sdxl-model-offload", "sd15-sequential-offload", "flux", "wan-t2v", "stable-audio"]
)
def test_a_pipeline(name: str) -> None:
    case = CASES[name].build()
    with torch.inference_mode():
        expected = case.call()
    with simulated_gpu() as device:
        case = CASES[name].build()
        if case.offload:
            case.offload(case.pipe, device)
        else:
            place(case.pipe, values="known")
        with torch.inference_mode():
            inside = case.call(device)
        outside = case.call(device)
    for got in (inside, outside):
        assert len(got) == len(expected) > 0
        assert all(map(torch.equal, got, expected))
