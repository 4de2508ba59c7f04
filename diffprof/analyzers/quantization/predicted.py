"""What each scheme would cost on a simulated GPU, from the one cost model that there is for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch

from diffprof.analyzers.quantization.inventory import Key
from diffprof.analyzers.quantization.layers import dtype_of
from diffprof.analyzers.quantization.schemes import Scheme
from diffprof.gpu.cost import CostModel
from diffprof.gpu.matmul import MEMORY_SHARE, matmul, row_major_us, tiny_us, weight_only
from diffprof.gpu.mode import Mode
from diffprof.gpu.operands import precision
from diffprof.gpu.pointwise import Addressing, streaming
from diffprof.gpu.signatures import OpSignature, TensorMeta
from diffprof.gpu.specs import GpuSpec
from diffprof.model.recording import Grade, SchemeTiming

ERROR = 0.05
"""Error of a predicted time, as a share of it: most published rungs are met to within so much. A predicted
difference that is smaller is no clear gain."""

_ids = itertools.count(-1, -1)


class Predictor:
    """Times of linears on one GPU. mode: how the model around them runs."""

    def __init__(self, spec: GpuSpec, mode: Mode) -> None:
        self.spec = spec
        self.model = CostModel(spec, mode)

    def timing(self, key: Key, scheme: Scheme, how: str) -> SchemeTiming:
        """One shape under one scheme. how: eager or compiled."""
        why_not = self.why_not(key, scheme)
        if why_not:
            return SchemeTiming(scheme=scheme.key, mode=how, grade=Grade.SIMULATED, why_not=why_not)
        compiled = how == "compiled"
        original = self.original_us(key, compiled)
        changed = self.scheme_us(key, scheme, compiled)
        return SchemeTiming(
            scheme=scheme.key,
            mode=how,
            grade=Grade.SIMULATED,
            original_us=original,
            median_us=changed,
            gain_us=original - changed,
            gain_spread_us=ERROR * original,
        )

    def timings(self, key: Key, schemes: Sequence[Scheme], modes: Sequence[str]) -> list[SchemeTiming]:
        return [self.timing(key, scheme, mode) for mode in modes for scheme in schemes]

    def why_not(self, key: Key, scheme: Scheme) -> str | None:
        """Why a scheme does not run on this GPU, or None."""
        name = self.spec.name
        major, minor = self.spec.capability
        if scheme.activation and self.spec.vendor == "nvidia" and scheme.activation not in self.spec.peak:
            return f"{name} (compute capability {major}.{minor}) has no {scheme.activation} units"
        if scheme.activation and scheme.activation not in self.spec.peak:
            return f"{name} has no {scheme.activation} units"
        if scheme.weight == "int4" and key.dtype != "bfloat16":
            return f"its kernel takes bfloat16, not {key.dtype}"
        if scheme.weight == "int4" and self.spec.vendor == "nvidia" and major < 8:
            return f"its kernel needs compute capability 8.0, {name} has {major}.{minor}"
        if scheme.activation == "fp8" and scheme.per_row and key.dtype != "bfloat16":
            return f"scales a row need bfloat16, not {key.dtype}"
        if scheme.activation and (key.in_features % 16 or key.out_features % 16):
            return "its kernel needs features in multiples of 16"
        return None

    def original_us(self, key: Key, compiled: bool) -> float:
        """The layer as it is. A compiled 1x1 convolution runs as what is faster, a convolution or a matmul:
        with max-autotune Inductor tries both (torch/_inductor/kernel/conv.py, aten_conv1x1_via_mm)."""
        forms = (False, True) if compiled and key.kind == "conv1x1" else (False,)
        return min(
            sum(
                kernel.device_us
                for kernel in self.model.kernels(signature(key, linear=form), compiled=compiled)
            )
            for form in forms
        )

    def scheme_us(self, key: Key, scheme: Scheme, compiled: bool) -> float:
        """The layer under a scheme, quantizing its activation included."""
        if compiled and scheme.key == "int8-dynamic":
            kernels = self.model.kernels(signature(key, linear=True), compiled=True, quantized=True)
            return sum(kernel.device_us for kernel in kernels)
        width = dtype_of(key.dtype).itemsize
        activation, output = key.m * key.in_features, key.m * key.out_features
        weights = key.in_features * key.out_features
        fixed = self.model.fixed_us(compiled)
        if scheme.activation is None:
            return self._weight_only(key, scheme, width, compiled)
        sizes = (key.m, key.out_features, key.in_features)
        compute = matmul(self.spec, 1, *sizes, scheme.activation, 1).us
        if scheme.activation == "int8" and not compiled:
            compute = max(compute, row_major_us(self.spec, *sizes))
        bandwidth = self.spec.bytes_per_us * MEMORY_SHARE
        if compiled:
            # One scale for the tensor has to be known before anything is rounded: a pass of its own.
            passes = (
                [activation * (width + 1)]
                if scheme.per_row
                else [activation * width, activation * (width + 1)]
            )
            product = max(compute, (activation + weights + output * width) / bandwidth)
        else:
            passes, product = self._eager_passes(activation, output, weights, width, compute, bandwidth)
        extra = sum(self._pass_us(moved, width, compiled) + fixed for moved in passes)
        return extra + product + fixed

    def _pass_us(self, moved: float, width: int, compiled: bool) -> float:
        """A kernel that moves so many bytes: generated, or one of PyTorch's own on a tensor and a scale a
        row."""
        if compiled:
            return self.model.generated_us(moved)
        return streaming(self.spec, moved, moved / (2 * width), Addressing.BROADCAST).us

    def _eager_passes(
        self, activation: int, output: int, weights: int, width: int, compute: float, bandwidth: float
    ) -> tuple[list[float], float]:
        """Bytes of the kernels around an uncompiled product.

        torchao's choose_qparams_affine and quantize_affine take the lower and the upper end of each row,
        divide, round, clamp and cast; the product is stored in 4 bytes, and scaled by rows and by columns.
        """
        passes = [1.0 * activation * width] * 2
        passes += [2.0 * activation * width, 2.0 * activation * width, 2.0 * activation * width]
        passes += [activation * (width + 1.0)]
        passes += [output * (4.0 + 4.0), output * (4.0 + width)]
        return passes, max(compute, (activation + weights + output * 4.0) / bandwidth)

    def _weight_only(self, key: Key, scheme: Scheme, width: int, compiled: bool) -> float:
        """The weight is widened before the product: in its loads if compiled, in a kernel of its own else."""
        kind = precision(dtype_of(key.dtype), self.model.mode.matmul_tf32)
        sizes = (key.m, key.out_features, key.in_features)
        if compiled or scheme.weight == "int4":
            time = weight_only(self.spec, *sizes, kind, width, scheme.weight_bits)
            least = tiny_us(self.spec, *sizes, width, scheme.weight_bits) if scheme.weight == "int4" else 0.0
            return max(time.us, least) + self.model.fixed_us(compiled, time.origin)
        weights = key.in_features * key.out_features
        stored = weights * scheme.weight_bits / 8
        widened = self._pass_us(stored + weights * width, width, False) + self.model.fixed_us(False)
        product = matmul(self.spec, 1, *sizes, kind, width)
        return widened + product.us + self.model.fixed_us(False, product.origin)


def signature(key: Key, *, linear: bool = False) -> OpSignature:
    """The operation that a layer launches, as the simulated device would tell it. linear: also for a 1x1
    convolution, as the linear that it can be."""
    dtype = dtype_of(key.dtype)
    if key.kind == "conv1x1" and not linear:
        side = math.isqrt(key.m)
        height, width = (side, side) if side * side == key.m else (1, key.m)
        given = _meta((1, key.in_features, height, width), dtype)
        weight = _meta((key.out_features, key.in_features, 1, 1), dtype)
        result = _meta((1, key.out_features, height, width), dtype)
        name, scalars = "aten::conv2d", {"stride": (1, 1), "groups": 1}
    else:
        given, result = _meta((key.m, key.in_features), dtype), _meta((key.m, key.out_features), dtype)
        weight = _meta((key.out_features, key.in_features), dtype)
        name, scalars = "aten::linear", {}
    inputs = [given, weight] + ([_meta((key.out_features,), dtype)] if key.bias else [])
    return OpSignature(next(_ids), name, None, tuple(inputs), (result,), dict(scalars))


def _meta(shape: tuple[int, ...], dtype: torch.dtype) -> TensorMeta:
    stride: list[Any] = [1]
    for size in reversed(shape[1:]):
        stride.insert(0, stride[0] * size)
    return TensorMeta(torch.Size(shape), tuple(stride), dtype, 0, "sim")
