"""Geometry of parts of a tensor, told by arithmetic: what PyTorch itself gives."""

from __future__ import annotations

import pytest
import torch

from diffprof.devices.simulated import simulated_gpu
from diffprof.devices.simulated.tensor import intern_meta, unknown

aten = torch.ops.aten
CALLS = [
    (aten.select.int, (0, 0)),
    (aten.select.int, (-1, -1)),
    (aten.select.int, (1, 3)),
    (aten.slice.Tensor, ()),
    (aten.slice.Tensor, (1, 1, 3)),
    (aten.slice.Tensor, (-2, None, 2)),
    (aten.slice.Tensor, (2, -3, 9223372036854775807, 2)),
    (aten.slice.Tensor, (0, 5, 9)),
    (aten.slice.Tensor, (2, 4, 1)),
]


@pytest.mark.parametrize(("op", "args"), CALLS)
def test_parts_lie_where_pytorch_puts_them(op, args) -> None:
    whole = torch.empty(2, 4, 6, dtype=torch.float16, device="meta").transpose(0, 2)[1:].transpose(0, 2)
    expected = op(whole, *args)
    with simulated_gpu():
        here = unknown(intern_meta(whole.shape, whole.stride(), whole.dtype, whole.storage_offset()))
        part = op(here, *args)
        assert (part.shape, part.stride(), part.storage_offset()) == (
            expected.shape,
            expected.stride(),
            expected.storage_offset(),
        )
        assert part.data_ptr() - here.data_ptr() == 2 * (part.storage_offset() - here.storage_offset())
        assert part.fill_(1.0) is part
        assert part.zero_().shape == expected.shape


@pytest.mark.parametrize(("op", "args"), [(aten.select.int, (1, 4)), (aten.select.int, (3, 0))])
def test_what_is_not_there_raises(op, args) -> None:
    with simulated_gpu(), pytest.raises(IndexError):
        op(unknown(intern_meta(torch.Size([2, 4, 6]), (24, 6, 1), torch.float16, 0)), *args)
