"""Linears of quantization libraries: what their kernels take, held against published profiles of kernels."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from diffprof.gpu.cost import CostModel, Kernel
from diffprof.gpu.matmul import row_major_us, tiny_us
from diffprof.gpu.mode import Mode
from diffprof.gpu.quantized import SCHEMES
from diffprof.gpu.signatures import OpSignature, TensorMeta
from diffprof.gpu.specs import GpuSpec, load_spec

POLICY = ((840, 1764, 2048, 2048), (140, 1764, 8192, 2048), (140, 1764, 2048, 8192), (280, 512, 2048, 1024))
"""(calls, rows, columns, depth) of a published torchao profile on an RTX 4090 D."""


def rtx4090d() -> GpuSpec:
    return dataclasses.replace(load_spec("rtx4090"), processors=114, clock_ghz=2.52)


def linear(rows: int, depth: int, columns: int) -> OpSignature:
    def meta(*shape: int) -> TensorMeta:
        return TensorMeta(torch.Size(shape), (shape[-1], 1)[: len(shape)], torch.bfloat16, 0, "cuda")

    return OpSignature(
        -1, "aten::linear", None, (meta(rows, depth), meta(columns, depth)), (meta(rows, columns),)
    )


def kernels(scheme: str, rows: int, *, compiled: bool = False, gpu: str = "h100") -> tuple[Kernel, ...]:
    model = CostModel(load_spec(gpu), Mode(scheme=SCHEMES[scheme]))
    return model.kernels(linear(rows, 3072, 12288), compiled=compiled, quantized=True)


def test_tinygemm_takes_what_was_measured() -> None:
    """2.2016 ms for 1,024 rows of 4096x4096 on an RTX A6000, 1.246 s of the policy's on an RTX 4090 D."""
    one = tiny_us(load_spec("a6000"), 1024, 4096, 4096, 2, 4.5)
    assert one == pytest.approx(2201.6, rel=0.05)
    assert tiny_us(load_spec("a6000"), 512, 4096, 4096, 2, 4.5) == pytest.approx(one / 2)
    many = sum(calls * tiny_us(rtx4090d(), *sizes, 2, 4.5) for calls, *sizes in POLICY)
    assert many == pytest.approx(1.246e6, rel=0.05)


def test_int8_with_its_weight_row_by_row_runs_on_no_tensor_core() -> None:
    """219.2 ms of `igemm_int8_128x128_ldg4_nn` in the same policy."""
    found = sum(calls * row_major_us(rtx4090d(), *sizes) for calls, *sizes in POLICY)
    assert found == pytest.approx(219.2e3, rel=0.05)


@pytest.mark.parametrize("scheme", ["int4_weight_only", "quanto_4bit"])
@pytest.mark.parametrize("compiled", [False, True])
def test_four_bit_weights_lose_at_many_rows_and_gain_at_one(scheme: str, compiled: bool) -> None:
    plain = CostModel(load_spec("h100"), Mode())

    def ratio(rows: int) -> float:
        before = sum(k.device_us for k in plain.kernels(linear(rows, 3072, 12288), compiled=compiled))
        return sum(k.device_us for k in kernels(scheme, rows, compiled=compiled)) / before

    assert ratio(4608) > 4
    assert ratio(1) < 0.6


def test_int8_without_a_compiler_turns_its_weight_and_loses() -> None:
    found = kernels("int8", 4608)
    assert [k.name for k in found].count("contiguous") == 1
    product = max(found, key=lambda k: k.device_us)
    assert product.family == "gemm"
    assert product.device_us > 5 * kernels("int8", 4608, compiled=True)[-1].device_us
    assert product.origin == "modelled"
