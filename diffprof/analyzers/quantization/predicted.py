"""What each scheme would cost on a simulated GPU, from the one cost model that there is for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from diffprof.analyzers.quantization.inventory import Key
from diffprof.analyzers.quantization.layers import dtype_of
from diffprof.analyzers.quantization.schemes import Scheme
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import Mode
from diffprof.gpu.quantized import SCHEMES as LINEAR_SCHEMES
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
        model = self.model.in_mode(replace(self.model.mode, scheme=LINEAR_SCHEMES[priced_as(scheme)]))
        kernels = model.kernels(signature(key, linear=True), compiled=compiled, quantized=True)
        return sum(kernel.device_us for kernel in kernels)


def priced_as(scheme: Scheme) -> str:
    """What the cost model calls a scheme."""
    if scheme.activation is None:
        return f"{scheme.weight}_weight_only"
    return "fp8_row" if scheme.activation == "fp8" and scheme.per_row else scheme.activation


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
