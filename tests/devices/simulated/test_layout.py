"""In which order results lie in memory: as CUDA has it, whether the values are known or not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn import functional as F

from diffprof.devices.simulated.session import SESSION
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode
from diffprof.gpu.operands import is_channels_last, is_dense
from diffprof.gpu.specs import load_spec
from tests.devices.simulated.conftest import Recorder
from tests.devices.simulated.signatures import meta, op

A100 = load_spec("a100-80gb")
ORDERS = {4: torch.channels_last, 5: torch.channels_last_3d}
KNOWN, UNKNOWN = 8, 1 << 12
"""Positions of a picture whose values the device keeps, and of one that is too large for that."""


@pytest.fixture(autouse=True)
def _without_values(sim: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a call whose weights have no values; where all have, results keep the CPU's order and bits."""
    monkeypatch.setattr(SESSION, "unknown", True)


def made(shape: tuple[int, ...], last: bool, device: torch.device) -> torch.Tensor:
    found = torch.empty(shape, device=device)
    return found.to(memory_format=ORDERS[len(shape)]) if last else found


def is_last(tensor: torch.Tensor) -> bool:
    return tensor.is_contiguous(memory_format=ORDERS[tensor.dim()]) and not tensor.is_contiguous()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("x_last", "weight_last", "expected"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_a_convolution_follows_input_or_weight(
    sim: torch.device, dims: int, transposed: bool, x_last: bool, weight_last: bool, expected: bool
) -> None:
    call: Callable[..., torch.Tensor] = getattr(F, f"conv{'_transpose' if transposed else ''}{dims}d")
    for width in (KNOWN, UNKNOWN):
        x = made((1, 4, *[3] * (dims - 1), width), x_last, sim)
        weight = made((4, 4, *[3] * dims), weight_last, sim)
        assert is_last(call(x, weight, padding=1)) is expected


def test_float64_and_one_dimension_stay_contiguous(sim: torch.device) -> None:
    weight = made((4, 4, 3, 3), True, sim).double()
    x = torch.empty(1, 4, 8, 8, device=sim, dtype=torch.float64)
    assert F.conv2d(x, weight).is_contiguous()
    line = torch.empty(2, 4, 4096, device=sim)
    assert F.conv1d(line, torch.empty(4, 4, 3, device=sim)).is_contiguous()


def test_a_picture_without_a_batch_is_not_taken_for_a_video(sim: torch.device) -> None:
    x = made((4, 3, 8, 8), True, sim)
    assert F.conv3d(x, torch.empty(4, 4, 1, 1, 1, device=sim)).is_contiguous()


@pytest.mark.parametrize("width", [KNOWN, UNKNOWN])
def test_group_norm_and_pixel_shuffle_return_a_contiguous_result(sim: torch.device, width: int) -> None:
    x = made((1, 4, 8, width), True, sim)
    assert F.group_norm(x, 2).is_contiguous()
    assert F.pixel_shuffle(x, 2).is_contiguous()
    assert is_last(F.silu(x))
    assert is_last(F.interpolate(x, scale_factor=2.0))


def test_what_pytorch_takes_for_channels_last(sim: torch.device) -> None:
    one = made((4, 8, 1, 1), True, sim)._meta
    assert is_channels_last(one)
    assert is_dense(one, channels_last=True)
    plain = torch.empty(4, 8, 1, 1, device=sim)._meta
    assert not is_channels_last(plain)
    assert is_dense(plain, channels_last=True), "a 1x1 filter is the same in both orders"


@pytest.mark.parametrize(
    "shape", [(4, 1, 8, 8), (1, 8, 1, 1), (4, 8, 1, 1), (1, 1, 1, 1), (2, 3, 4, 5), (5, 1, 1, 2)]
)
def test_strides_are_read_as_pytorch_reads_them(sim: torch.device, shape: tuple[int, ...]) -> None:
    for last in (False, True):
        tensor = made(shape, last, sim)
        known = torch._prims_common.suggest_memory_format(tensor) == torch.channels_last
        assert is_channels_last(tensor._meta) is known


def names(x_last: bool, weight_last: bool, compiled: bool = False) -> list[str]:
    x, weight = meta(2, 320, 64, 64, last=x_last), meta(320, 320, 3, 3, last=weight_last)
    signature = op("conv2d", [x, weight], meta(2, 320, 64, 64), scalars={"padding": (1, 1)})
    return [k.name for k in CostModel(A100, Mode()).kernels(signature, compiled=compiled)]


def test_only_what_is_in_the_other_order_is_copied_before_a_convolution() -> None:
    assert names(False, False) == ["nchwToNhwc", "conv2d", "nhwcToNchw"]
    assert names(True, True) == ["conv2d"]
    assert names(False, True) == names(True, False) == ["contiguous", "conv2d"]
    assert names(False, True, compiled=True) == ["conv2d"]


def test_a_unet_in_channels_last_has_no_conversions_of_cudnn(sim: torch.device, recorder: Recorder) -> None:
    """What is left comes from group norms: each makes its input contiguous, so that the next convolution
    puts it back."""
    first, second = (
        torch.nn.Conv2d(8, 8, 3, padding=1).to(sim, memory_format=torch.channels_last) for _ in "ab"
    )
    norm = torch.nn.GroupNorm(2, 8).to(sim)
    second(F.silu(norm(first(made((1, 8, 64, 64), False, sim)))))
    model = CostModel(A100, Mode())
    kernels = [k.name for s in recorder.ops for k in model.kernels(s) if "conv" in s.name or "norm" in s.name]
    assert not [name for name in kernels if "Nhwc" in name or "Nchw" in name]
    assert kernels.count("contiguous") == 3
