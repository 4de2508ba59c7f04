"""Inputs whose elements share memory: what stands for them has their geometry, values and sharing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from diffprof.analyzers.graph_breaks.signature import signature
from diffprof.analyzers.graph_breaks.storageless import Emptier, Storageless, storageless_like
from tests.analyzers.graph_breaks.tiny import TinyCall

TABLE = torch.arange(24.0).reshape(4, 6)

INPUTS = {
    "expanded": torch.tensor([7]).expand(3),
    "expanded scalar": torch.tensor(5.0).expand(2, 3),
    "broadcast": torch.broadcast_to(torch.arange(3.0), (2, 3)),
    "overlapping": torch.arange(10.0).as_strided((4, 3), (2, 1)),
    "half precision": torch.ones(1, 4, dtype=torch.bfloat16).expand(2, 4),
    "complex": torch.ones(2, dtype=torch.complex64).expand(3, 2),
    "with gaps": TABLE[1:3, 2:5],
    "with an offset": TABLE[2],
    "transposed": TABLE.t(),
    "far apart": torch.arange(5_000_000)[::1_000_000],
    "empty": torch.empty(0, 3),
    "bool": torch.tensor([True]).expand(4),
}


@pytest.mark.parametrize("around", [nullcontext, Storageless])
@pytest.mark.parametrize("name", INPUTS)
def test_geometry_and_values_are_kept(name: str, around: Callable[[], AbstractContextManager[None]]) -> None:
    tensor = INPUTS[name]
    with around():
        (made,), _ = signature(((tensor,), {})).values(Emptier())
        twin = storageless_like(tensor)
    geometry = (tensor.shape, tensor.stride(), tensor.storage_offset())
    assert (made.shape, made.stride(), made.storage_offset()) == geometry
    assert torch.equal(made, tensor)
    assert (twin.shape, twin.stride()) == geometry[:2]
    assert torch.equal(twin, tensor)


def test_inputs_that_share_storage_share_it_still() -> None:
    halves = TABLE.clone().chunk(2, dim=1)
    (first, second), _ = signature((halves, {})).values(Emptier())
    assert torch.equal(first, halves[0])
    assert torch.equal(second, halves[1])
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    first.as_strided((4, 6), (6, 1)).zero_()
    assert not second.any()


class Timed(nn.Module):
    """A denoiser that is given the timestep as pipelines give it, and the halves of one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, half: torch.Tensor) -> torch.Tensor:
        return self.linear(sample) * timestep[:, None] + half


class Guided:
    """Batch 2 by classifier-free guidance; the timestep is expanded to it."""

    def __init__(self) -> None:
        self.components = {"transformer": Timed()}

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for t in torch.tensor([999, 500]):
            uncond, cond = torch.cat([x, x]).chunk(2)
            both = x[:1].expand(2, 4)
            x = self.components["transformer"](both, t.expand(2), uncond + 0 * cond)
        return x


def test_a_component_with_expanded_inputs_is_captured() -> None:
    found = probe_graph_breaks(TinyCall(Guided(), {"x": torch.ones(2, 4)}), None, cache=False)
    (row,) = found["captures"]
    assert (row.component, row.failure, row.fullgraph_ready, row.calls) == ("transformer", None, True, 2)
    assert found["recompiles"] == found["unseen"] == ()


NAMING = """
def make(kept, held):
    def forward(x):
        return kept["last"], STATE["last"]
    return forward
"""


def test_what_functions_name_is_emptied_with_the_model_they_belong_to() -> None:
    """State of a forward that was replaced by a function: the call before left its device's tensors there."""

    def on_device() -> torch.Tensor:
        return torch.ones(3, device="meta")

    names: dict[str, Any] = {"STATE": {"last": on_device()}}
    exec(compile(NAMING, __file__, "exec"), names)
    kept, model = {"last": on_device()}, torch.nn.Linear(2, 2)
    model.forward = names["make"](kept, None)
    model.part = functools.partial(names["make"], on_device(), held=on_device())
    Emptier().empty(model)
    (given,), held = model.part.args, model.part.keywords["held"]
    for tensor in (kept["last"], names["STATE"]["last"], given, held):
        assert tensor.device.type == "cpu"
