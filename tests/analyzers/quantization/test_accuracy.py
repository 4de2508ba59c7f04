"""Noise ratios: the emulation agrees with the libraries, and outliers show."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from diffprof.analyzers.quantization.accuracy import (
    CEILING,
    emulated_sqnr,
    layer_sqnr,
    sqnr,
    synthetic_sqnr,
)
from diffprof.analyzers.quantization.inventory import Layer
from diffprof.analyzers.quantization.layers import Unavailable, quantized_copy
from diffprof.analyzers.quantization.schemes import SCHEMES


def test_decibels() -> None:
    signal = torch.ones(100)
    assert sqnr(signal, signal * 1.1) == pytest.approx(20, abs=0.01)
    assert sqnr(signal, signal) == CEILING
    assert sqnr(signal, signal * float("nan")) == -float("inf")


@pytest.mark.parametrize("key", ["int8-dynamic", "int8-weight-only", "float8-weight-only"])
def test_the_emulation_is_what_the_library_does(key: str) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 64, bias=False)
    rows = torch.randn(32, 256)
    with torch.no_grad():
        real = sqnr(linear(rows), quantized_copy(linear, SCHEMES[key])(rows))
        emulated = emulated_sqnr(SCHEMES[key], rows, linear.weight)
    assert emulated == pytest.approx(real, abs=0.5)


def test_synthetic_noise_orders_the_schemes() -> None:
    noise = {key: synthetic_sqnr(key, 640, 640) for key in SCHEMES}
    assert noise["int4-weight-only"] < noise["float8-dynamic-row"] < noise["int8-dynamic"]
    assert noise["int8-dynamic"] < noise["int8-weight-only"]
    assert 35 < noise["int8-dynamic"] < 45


def layer(samples: list[torch.Tensor], module: nn.Module | None = None) -> Layer:
    torch.manual_seed(0)
    found = Layer("unet", "x", module or nn.Linear(64, 32), 64, 32, "linear", False, None)
    found.samples = samples
    return found


def test_an_outlier_makes_a_layer_sensitive() -> None:
    rows = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    stretched = rows.clone()
    stretched[0, 0] = 3000.0
    scheme = SCHEMES["qint8-dynamic"]
    assert layer_sqnr(layer([rows]), scheme) > 25
    quiet = layer([stretched])
    with torch.no_grad():
        quiet.module.weight[:, 0] = 0.0
    assert layer_sqnr(quiet, scheme) < 5


def test_without_samples_or_weights_it_is_not_measured() -> None:
    with pytest.raises(Unavailable, match="no activations"):
        layer_sqnr(layer([]), SCHEMES["int8-dynamic"])
    with pytest.raises(Unavailable, match="not loaded"):
        layer_sqnr(layer([torch.randn(4, 64)], nn.Linear(64, 32, device="meta")), SCHEMES["int8-dynamic"])


def test_a_convolution_is_measured_as_a_linear() -> None:
    rows = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    convolution = nn.Conv2d(64, 32, 1)
    assert layer_sqnr(layer([rows], convolution), SCHEMES["int8-dynamic"]) > 30


@pytest.mark.parametrize("key", ["float8-dynamic-row", "float8-dynamic-tensor"])
def test_zeros_stay_numbers_in_float8(key: str) -> None:
    """A row of padding has a scale of zero else."""
    from torchao.quantization.quantize_.workflows.float8.float8_tensor import Float8Tensor

    scheme = SCHEMES[key]
    names: dict[str, Any] = {}
    exec("\n".join(scheme.imports), names)
    made = eval(scheme.config, names)
    zeros = torch.zeros(4, 32, dtype=torch.bfloat16)
    granularity = names["PerRow" if scheme.per_row else "PerTensor"]()
    packed = Float8Tensor.from_hp(zeros, granularity=granularity, hp_value_lb=made.activation_value_lb)
    assert packed.dequantize().equal(zeros)
