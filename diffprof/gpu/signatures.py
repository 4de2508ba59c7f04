"""An operation on a device, as geometry: the shapes, strides and types that decide what it costs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import torch


class TensorMeta:
    """Geometry of a tensor. Interned: two tensors alike have the same object, so `is` compares.

    shape, stride and offset in elements; device is "sim" or "cpu". bits: 1 where the tensor is a lazy
    conjugate, 2 where it is a lazy negative.
    """

    __slots__ = ("bits", "device", "dtype", "numel", "offset", "shape", "stride")

    def __init__(
        self,
        shape: torch.Size,
        stride: tuple[int, ...],
        dtype: torch.dtype,
        offset: int,
        device: str,
        bits: int = 0,
    ) -> None:
        self.bits = bits
        self.shape = shape
        self.stride = stride
        self.dtype = dtype
        self.offset = offset
        self.device = device
        self.numel = shape.numel()

    @property
    def nbytes(self) -> int:
        """Bytes of the elements (not of the storage behind them)."""
        return self.numel * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"{dtype_name(self.dtype)}{list(self.shape)}@{self.device}"


OTHER_IDS = itertools.count(-1, -1)
"""Ids of operations that no call ran."""


@dataclass(frozen=True, slots=True, eq=False)
class OpSignature:
    """One distinct device operation: op, geometry of what goes in and comes out. Interned by `id`.

    scalars: the arguments that aren't tensors, by name, where they matter (strides, is_causal, dims).
    direction: "h2d", "d2h" or "d2d" for copies, else None. nbytes: what a copy moves over the link.
    """

    id: int
    name: str
    func: Any
    inputs: tuple[TensorMeta, ...]
    outputs: tuple[TensorMeta, ...]
    scalars: dict[str, Any] = field(default_factory=dict)
    direction: str | None = None
    nbytes: int = 0


def dtype_name(dtype: torch.dtype) -> str:
    """`torch.float16` -> `float16`."""
    return str(dtype).removeprefix("torch.")
