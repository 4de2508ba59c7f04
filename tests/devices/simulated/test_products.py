from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices import resolve_device
from diffprof.devices.simulated import observing
from diffprof.gpu.products import as_linear, product_of
from diffprof.gpu.signatures import OpSignature
from tests.devices.simulated.signatures import add, conv, linear, meta, op


def one_by_one(out: tuple[int, ...] = (2, 64, 16, 16), columns: int = 64, groups: int = 1) -> OpSignature:
    weight = meta(columns, 32 // groups, 1, 1)
    return op("conv2d", [meta(2, 32, 16, 16), weight, meta(columns)], meta(*out), scalars={"groups": groups})


def test_linears_and_plain_1x1_convolutions_are_products() -> None:
    assert product_of(linear(154, 2048, 1280)) == (154, 2048, 1280, "linear")
    assert product_of(one_by_one()) == (512, 32, 64, "conv1x1")


@pytest.mark.parametrize(
    "other",
    [
        conv(last=True),
        add(4, 4),
        one_by_one(out=(2, 64, 8, 8)),
        one_by_one(groups=2),
    ],
    ids=["3x3", "no product", "stride", "groups"],
)
def test_others_are_not(other: OpSignature) -> None:
    assert product_of(other) is None


def test_a_swapped_convolution_is_the_same_product() -> None:
    swapped = as_linear(one_by_one())
    assert swapped.id < 0
    assert swapped.id != as_linear(one_by_one()).id
    assert product_of(swapped) == (512, 32, 64, "linear")
    assert swapped.outputs[0].shape == (512, 64)
    assert len(swapped.inputs) == 3, "the bias stays"


@pytest.mark.parametrize(
    ("equation", "shapes", "kernels"),
    [
        ("nhwpqc->nchpwq", [(2, 8, 8, 2, 2, 16)], []),
        ("...n,d->...nd", [(2, 4480), (16,)], ["mul"]),
        ("bij,bjk->bik", [(2, 64, 32), (2, 32, 16)], ["bmm"]),
    ],
    ids=["an order of axes", "an outer product", "a product"],
)
def test_an_einsum_launches_what_it_is_made_of(
    equation: str, shapes: list[tuple[int, ...]], kernels: list[str]
) -> None:
    device = resolve_device("sim:a100-80gb")
    with device.active() as place, torch.no_grad():
        seen = SimulatedKernels(device.gpu, SimpleNamespace(components={}))  # type: ignore[attr-defined]
        given = [torch.empty(shape, device=place) for shape in shapes]
        with observing(seen):
            torch.einsum(equation, *given)
        rows = seen.sections()["kernels"]
    assert [row.name for row in rows] == kernels


class Summed(TorchDispatchMode):
    """Types in which the CPU convolves and multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        if func in (torch.ops.aten.convolution.default, torch.ops.aten.mm.default):
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("sim")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_sums_of_float16_are_computed_in_float32(dtype: torch.dtype) -> None:
    """Within float16, 2048 + 1 is 2048; on a GPU the sum is rounded once."""
    x = torch.tensor([2048.0, 1.0, 1.0], dtype=dtype, device="sim")
    ones = torch.ones(3, 1, 1, 1, dtype=dtype, device="sim")
    with Summed() as seen, torch.no_grad():
        found = [
            F.conv2d(x.reshape(1, 3, 1, 1), ones.reshape(1, 3, 1, 1)),
            F.conv_transpose2d(x.reshape(1, 3, 1, 1), weight=ones),
            x[None] @ ones.reshape(3, 1),
            F.linear(x[None], ones.reshape(1, 3)),
        ]
    assert seen.types == [torch.float32 if dtype == torch.float16 else dtype] * 4
    assert {each.dtype for each in found} == {dtype}
    assert {float(each.cpu()) for each in found} == {2048.0 if dtype == torch.bfloat16 else 2050.0}
