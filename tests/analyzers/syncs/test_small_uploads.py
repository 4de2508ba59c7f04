"""What it takes to put small tensors on the device: their bits, and how many kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffprof.analyzers.syncs.shims.small_uploads import _SmallUploads

HERE = torch.device("cpu")
KERNELS = ("aten.full", "aten.fill_", "aten.clone", "aten.stack", "aten.cat", "aten._to_copy", "aten.copy_")


class Kernels(TorchDispatchMode):
    """Counts operations that launch one."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).rpartition(".")[0] in KERNELS:
            self.names.append(str(func).rpartition(".")[0])
        return func(*args, **(kwargs or {}))


def uploaded(values: torch.Tensor, kept: dict[Any, Any]) -> tuple[torch.Tensor, list[str]]:
    with Kernels() as seen:
        made = _SmallUploads(kept).upload(values, HERE)
    return made, seen.names


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([0.5, -0.25, 0.1]),
        torch.tensor([[1.0, 1.0], [1.0, 2.0]], dtype=torch.float16),
        torch.tensor([0.0, -0.0]),
        torch.tensor([float("inf"), float("nan"), 0.1], dtype=torch.float64),
        torch.tensor([2**60 + 1, 3]),
        torch.tensor([True, False, True]),
        torch.tensor([1 + 2j, 1 - 2j]),
    ],
    ids=str,
)
def test_the_same_bits_arrive_each_time(values: torch.Tensor) -> None:
    kept: dict[Any, Any] = {}
    for _ in range(4):
        made, _ = uploaded(values, kept)
        assert (made.dtype, made.shape) == (values.dtype, values.shape)
        assert bytes(made.view(torch.uint8).flatten()) == bytes(values.view(torch.uint8).flatten())
        made.zero_()  # what was handed out is the caller's


def test_numbers_that_come_again_take_one_kernel_and_new_ones_one_each() -> None:
    kept: dict[Any, Any] = {}
    numbers = torch.tensor([0.5, -0.25, 0.1])
    assert uploaded(numbers, kept)[1] == ["aten.full", "aten.fill_", "aten.fill_"]
    assert uploaded(numbers, kept)[1] == ["aten.full", "aten.fill_", "aten.fill_", "aten.clone"]
    assert uploaded(numbers, kept)[1] == ["aten.clone"]
    assert uploaded(torch.ones(8), kept)[1] == ["aten.full"]
