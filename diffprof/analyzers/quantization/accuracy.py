"""How much noise a scheme adds to a layer's output: the signal-to-quantization-noise ratio in decibels."""

from __future__ import annotations

import functools
import math

import torch
from torch import nn

from diffprof.analyzers.quantization.inventory import Layer
from diffprof.analyzers.quantization.layers import Unavailable, quantized_copy, reason
from diffprof.analyzers.quantization.schemes import SCHEMES, Scheme

SYNTHETIC_ROWS = 64
SYNTHETIC_COLUMNS = 256
"""Output features of a synthetic layer; every one has a scale of its own, so more only average the same."""

FLOAT8 = torch.float8_e4m3fn
CEILING = 150.0
"""Decibels reported for an output without any noise; float32 rounding alone gives about this."""


def sqnr(reference: torch.Tensor, result: torch.Tensor) -> float:
    """10 log10(signal power / noise power)."""
    signal = reference.double()
    noise = (signal - result.double()).square().sum().item()
    power = signal.square().sum().item()
    if not math.isfinite(noise):
        return -math.inf
    if noise == 0 or power == 0:
        return CEILING if noise == 0 else -math.inf
    return min(10 * math.log10(power / noise), CEILING)


def layer_sqnr(layer: Layer, scheme: Scheme) -> float:
    """SQNR of one layer, quantized by its library, on the activations it saw.

    Raises Unavailable without samples or weights, or where the scheme does not run.
    """
    if not layer.samples:
        raise Unavailable("no activations were kept")
    plain = as_linear(layer.module)
    rows = torch.cat(layer.samples)
    try:
        with torch.no_grad():
            changed = quantized_copy(plain, scheme)
            return sqnr(plain(rows), changed(rows))
    except (RuntimeError, NotImplementedError) as error:
        raise Unavailable(reason(error)) from error


def as_linear(module: nn.Module) -> nn.Linear:
    """A plain linear with the module's weights, without its hooks. Raises Unavailable if there are none."""
    weight = module._parameters.get("weight")
    if weight is None or weight.device.type == "meta":
        raise Unavailable("its weights are not loaded")
    matrix = weight.detach().reshape(weight.shape[0], -1)
    bias = module._parameters.get("bias")
    linear = nn.Linear(1, 1, bias=bias is not None, device="meta")
    linear.in_features, linear.out_features = matrix.shape[1], matrix.shape[0]
    linear.weight = nn.Parameter(matrix, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear.eval()


SYNTHETIC = "standard normal activations, and weights as PyTorch initializes a linear"


@functools.cache
def synthetic_sqnr(scheme_key: str, in_features: int, out_features: int) -> float:
    """SQNR of a layer of this shape under a scheme, emulated on SYNTHETIC values."""
    scheme = SCHEMES[scheme_key]
    generator = torch.Generator().manual_seed(0)
    bound = 1 / math.sqrt(in_features)
    columns = min(out_features, SYNTHETIC_COLUMNS)
    weight = torch.empty(columns, in_features).uniform_(-bound, bound, generator=generator)
    rows = torch.randn(SYNTHETIC_ROWS, in_features, generator=generator)
    return emulated_sqnr(scheme, rows, weight)


def emulated_sqnr(scheme: Scheme, rows: torch.Tensor, weight: torch.Tensor) -> float:
    """SQNR of `rows @ weight.T` with both rounded as the scheme does it, in float32 arithmetic."""
    rounded = rows
    if scheme.activation == "int8":
        rounded = _round_int8(rows, per_row=scheme.per_row)
    elif scheme.activation == "fp8":
        rounded = _round_float8(rows, per_row=scheme.per_row)
    if scheme.weight == "int8":
        matrix = _round_int8(weight, per_row=True)
    elif scheme.weight == "fp8":
        matrix = _round_float8(weight, per_row=scheme.per_row)
    else:
        matrix = _round_groups(weight, scheme.weight_bits, scheme.group)
    return sqnr(rows @ weight.T, rounded @ matrix.T)


def _largest(values: torch.Tensor, per_row: bool) -> torch.Tensor:
    found = values.abs().amax(dim=-1, keepdim=True) if per_row else values.abs().amax()
    return found.clamp(min=torch.finfo(torch.float32).tiny)


def _round_int8(values: torch.Tensor, *, per_row: bool) -> torch.Tensor:
    """Symmetric: scale = largest / 127.5, as torchao's choose_qparams_affine with a symmetric mapping."""
    scale = _largest(values, per_row) / 127.5
    return (values / scale).round().clamp(-128, 127) * scale


def _round_float8(values: torch.Tensor, *, per_row: bool) -> torch.Tensor:
    scale = _largest(values, per_row) / torch.finfo(FLOAT8).max
    return (values / scale).to(FLOAT8).float() * scale


def _round_groups(values: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Asymmetric, a scale and an offset for each group of a row; a row that does not divide is one group."""
    size = group if group and values.shape[-1] % group == 0 else values.shape[-1]
    grouped = values.reshape(values.shape[0], -1, size)
    low = grouped.amin(dim=-1, keepdim=True)
    step = (grouped.amax(dim=-1, keepdim=True) - low).clamp(min=torch.finfo(torch.float32).tiny) / (
        2**bits - 1
    )
    return (((grouped - low) / step).round() * step + low).reshape(values.shape)
