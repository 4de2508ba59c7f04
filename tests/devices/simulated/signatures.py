"""Operation signatures without a device: what a cost model is told."""

from __future__ import annotations

from itertools import count
from typing import Any

import torch

from diffprof.gpu.signatures import OpSignature, TensorMeta

_ids = count(1_000_000)


def meta(
    *shape: int, dtype: torch.dtype = torch.bfloat16, last: bool = False, device: str = "sim"
) -> TensorMeta:
    """A dense tensor; last: channels innermost."""
    like = torch.empty(shape, device="meta")
    if last:
        like = like.to(memory_format=torch.channels_last)
    return TensorMeta(torch.Size(shape), like.stride(), dtype, 0, device)


def op(name: str, inputs: list[TensorMeta], *outputs: TensorMeta, **more: Any) -> OpSignature:
    return OpSignature(next(_ids), f"aten::{name}", None, tuple(inputs), outputs, **more)


def linear(rows: int, depth: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> OpSignature:
    return op(
        "linear",
        [meta(rows, depth, dtype=dtype), meta(columns, depth, dtype=dtype)],
        meta(rows, columns, dtype=dtype),
    )


def add(*shape: int, dtype: torch.dtype = torch.bfloat16) -> OpSignature:
    one = meta(*shape, dtype=dtype)
    return op("add", [one, one], one)


def attention(
    heads: int, queries: int, keys: int, size: int, dtype: torch.dtype = torch.bfloat16, **scalars: Any
) -> OpSignature:
    q, k = meta(2, heads, queries, size, dtype=dtype), meta(2, heads, keys, size, dtype=dtype)
    return op("scaled_dot_product_attention", [q, k, k], q, scalars=scalars)


def conv(*, last: bool, channels: int = 320, size: int = 64, bias: bool = True) -> OpSignature:
    x = meta(2, channels, size, size, last=last)
    inputs = [x, meta(channels, channels, 3, 3, last=last), *([meta(channels)] if bias else [])]
    return op("conv2d", inputs, x, scalars={"padding": (1, 1)})
