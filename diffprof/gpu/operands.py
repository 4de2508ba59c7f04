"""What the tensors of an operation tell of its cost: bytes, types, layout, the sizes of its product."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .signatures import OpSignature, TensorMeta

_TYPES = {
    torch.float32: "fp32",
    torch.float64: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "int8",
    torch.uint8: "int8",
}


def touched(meta: TensorMeta) -> int:
    """Bytes of a tensor's distinct elements: expanded dimensions count once."""
    count = 1
    for size, step in zip(meta.shape, meta.stride, strict=True):
        if step:
            count *= size
    return count * meta.dtype.itemsize


def precision(dtype: torch.dtype, tf32: bool) -> str:
    """The type whose peak a matmul of these inputs runs at."""
    found = _TYPES.get(dtype)
    if found is None:
        found = "fp8" if "float8" in str(dtype) else "fp32"
    return "tf32" if found == "fp32" and tf32 and dtype != torch.float64 else found


def matmul_sizes(s: OpSignature, base: str) -> tuple[int, int, int, int]:
    """(batch, rows, columns, depth) of a matmul."""
    if base == "linear":
        x, weight = s.inputs[0].shape, s.inputs[1].shape
        columns = weight[0] if len(weight) > 1 else 1
        return 1, math.prod(x[:-1]), columns, x[-1]
    a, b = (s.inputs[1], s.inputs[2]) if base in ("addmm", "baddbmm", "addbmm") else s.inputs[:2]
    out = s.outputs[0]
    depth = a.shape[-1] if len(a.shape) else 1
    if len(a.shape) < 2 or len(b.shape) < 2:
        return 1, max(1, out.numel), 1, depth
    columns = b.shape[-1]
    if len(b.shape) == 2:
        return 1, a.numel // max(depth, 1), columns, depth
    return math.prod(out.shape[:-2]), a.shape[-2], columns, depth


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_channels_last(meta: TensorMeta) -> bool:
    """Whether PyTorch takes a tensor of four or five dimensions for channels_last: by its strides, those of
    axes of size 1 too (`is_channels_last_strides_2d_s4` in c10/core/MemoryFormat.h)."""
    shape, stride = meta.shape, meta.stride
    if len(shape) not in (4, 5):
        return False
    least = 0
    if stride[1] == 0:
        return False
    for axis in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[axis] == 0 or stride[axis] < least or (axis == 0 and least == stride[1]):
            return False
        least = stride[axis] * max(shape[axis], 1)
    return True


def is_dense(meta: TensorMeta, *, channels_last: bool = False) -> bool:
    """Whether `Tensor.contiguous()` in this order returns the tensor itself. Axes of size 1 may have any
    stride."""
    shape, stride = meta.shape, meta.stride
    axes = range(len(shape) - 1, -1, -1)
    expected = 1
    for axis in (1, *axes[:-2], 0) if channels_last else axes:
        if shape[axis] != 1 and stride[axis] != expected:
            return False
        expected *= shape[axis]
    return True


def convolves_channels_last(x: TensorMeta, weight: TensorMeta) -> bool:
    """Whether cuDNN runs a convolution in channels_last, and its result comes in it: where the input or the
    weight is, and neither is float64 (`cudnn_conv_suggest_memory_format` in ATen/native/ConvUtils.h)."""
    if torch.float64 in (x.dtype, weight.dtype) or len(x.shape) != len(weight.shape):
        return False
    return is_channels_last(x) or is_channels_last(weight)


def describe(s: OpSignature) -> str:
    """`2x4096x640, 640x640` for what goes in."""
    shapes = ["x".join(map(str, m.shape)) or "scalar" for m in s.inputs[:3]]
    return ", ".join(shapes) or "x".join(map(str, s.outputs[0].shape))
