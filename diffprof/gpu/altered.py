"""Operations that a call did not run: its own in half precision, attention as one, other linears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch

from diffprof.gpu.families import base_name
from diffprof.gpu.signatures import OTHER_IDS, OpSignature, TensorMeta
from diffprof.gpu.specs import GpuSpec

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
"""Types of which a model that is put in half precision keeps one."""


def half_type(spec: GpuSpec) -> torch.dtype:
    """bfloat16 where the GPU has units for it, else float16."""
    return torch.bfloat16 if "bf16" in spec.peak else torch.float16


def is_cast(op: OpSignature) -> bool:
    """Whether an operation copies to another type."""
    base = base_name(op)
    if base not in ("_to_copy", "copy_", "to") or not op.inputs or not op.outputs:
        return False
    source = op.inputs[-1] if base == "copy_" else op.inputs[0]
    return source.dtype != op.outputs[0].dtype


@cache
def altered(dtype: torch.dtype) -> Altered:
    """The one that makes such operations in a type: costs are remembered by operation."""
    return Altered(dtype)


class Altered:
    """Makes such operations, each once."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._metas: dict[int, tuple[TensorMeta, TensorMeta]] = {}
        self._halves: dict[OpSignature, OpSignature] = {}
        self._attention: dict[tuple[OpSignature, OpSignature], OpSignature] = {}
        self._preferring: dict[tuple[object, ...], OpSignature] = {}
        self._linears: dict[tuple[int, int, int, torch.dtype], OpSignature] = {}

    def in_half(self, op: OpSignature) -> OpSignature:
        """The operation with the device's tensors of float32, and of the other half type, in half precision;
        itself where it has none."""
        found = self._halves.get(op)
        if found is None:
            inputs = tuple(map(self._half, op.inputs))
            outputs = tuple(map(self._half, op.outputs))
            same = inputs == op.inputs and outputs == op.outputs
            found = op if same else replace(op, id=next(OTHER_IDS), inputs=inputs, outputs=outputs)
            self._halves[op] = found
        return found

    def attention(self, scores: OpSignature, product: OpSignature) -> OpSignature:
        """scaled_dot_product_attention for a product of query and key and one of scores and values."""
        found = self._attention.get((scores, product))
        if found is None:
            q, k = scores.inputs[-2:]
            v = product.inputs[-1]
            keys = self._dense(torch.Size((*k.shape[:-2], k.shape[-1], k.shape[-2])), k.dtype)
            found = OpSignature(
                next(OTHER_IDS), "aten::scaled_dot_product_attention", None, (q, keys, v), product.outputs
            )
            self._attention[scores, product] = found
        return found

    def preferring(self, op: OpSignature, order: Sequence[str]) -> OpSignature:
        """An attention where the process tries these kernels, in this order."""
        found = self._preferring.get((op, *order))
        if found is None:
            found = replace(op, id=next(OTHER_IDS), scalars={**op.scalars, "sdpa": tuple(order)})
            self._preferring[op, *order] = found
        return found

    def linear(self, rows: int, columns: int, depth: int, dtype: torch.dtype) -> OpSignature:
        """(rows, depth) times the transpose of (columns, depth)."""
        key = (rows, columns, depth, dtype)
        found = self._linears.get(key)
        if found is None:
            shapes = ((rows, depth), (columns, depth), (rows, columns))
            x, weight, out = (self._dense(torch.Size(shape), dtype) for shape in shapes)
            found = OpSignature(next(OTHER_IDS), "aten::linear", None, (x, weight), (out,))
            self._linears[key] = found
        return found

    def _half(self, meta: TensorMeta) -> TensorMeta:
        if meta.dtype not in _FLOATS or meta.dtype == self.dtype or meta.device == "cpu":
            return meta
        # The original is kept beside its half: an id is its own only while the object lives.
        known = self._metas.get(id(meta))
        if known is None:
            half = TensorMeta(meta.shape, meta.stride, self.dtype, meta.offset, meta.device, meta.bits)
            known = self._metas[id(meta)] = (meta, half)
        return known[1]

    def _dense(self, shape: torch.Size, dtype: torch.dtype) -> TensorMeta:
        strides = torch.empty(shape, device="meta").stride()
        return TensorMeta(shape, strides, dtype, 0, "sim")
