"""Matrix products of layers that can be quantized: linears, and 1x1 convolutions that could be linears."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch

from diffprof.gpu.signatures import OTHER_IDS, OpSignature, TensorMeta


class Product(NamedTuple):
    """(rows, depth) times (depth, columns). kind: linear or conv1x1."""

    rows: int
    depth: int
    columns: int
    kind: str


def product_of(op: OpSignature) -> Product | None:
    """The product that a linear, or a 1x1 convolution without stride, padding and groups, is."""
    if op.name == "aten::linear" and len(op.inputs[1].shape) == 2:
        x, (columns, depth) = op.inputs[0], op.inputs[1].shape
        return Product(math.prod(x.shape[:-1]), depth, columns, "linear")
    if op.name != "aten::conv2d" or len(op.inputs) < 2 or not op.outputs:
        return None
    x, weight, out = op.inputs[0].shape, op.inputs[1].shape, op.outputs[0].shape
    if len(x) != 4 or tuple(weight[2:]) != (1, 1) or weight[1] != x[1] or out[2:] != x[2:]:
        return None
    return Product(x[0] * x[2] * x[3], x[1], weight[0], "conv1x1")


@cache
def as_linear(op: OpSignature) -> OpSignature:
    """The linear that a 1x1 convolution becomes when it is swapped."""
    product = product_of(op)
    assert product is not None
    x, weight, *bias = op.inputs
    shapes = (
        (product.rows, product.depth),
        (product.columns, product.depth),
        (product.rows, product.columns),
    )
    given, matrix, out = (
        _dense(torch.Size(shape), meta)
        for shape, meta in zip(shapes, (x, weight, op.outputs[0]), strict=True)
    )
    return OpSignature(next(OTHER_IDS), "aten::linear", None, (given, matrix, *bias), (out,))


def _dense(shape: torch.Size, like: TensorMeta) -> TensorMeta:
    return TensorMeta(shape, (shape[1], 1), like.dtype, 0, like.device)
