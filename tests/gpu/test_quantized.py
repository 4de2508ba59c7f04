"""Linears of quantization libraries: what their kernels take, held against published profiles of kernels."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffprof.gpu.cost import CostModel, Kernel
from diffprof.gpu.matmul import row_major_us, tiny_us
from diffprof.gpu.mode import Mode
from diffprof.gpu.quantized import SCHEMES, WIDE, Pass
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


# --- what torchao launches without a compiler --------------------------------------------------------------

ROWS, DEPTH, COLUMNS = 48, 256, 512

CONFIGURATIONS = {
    "int8": lambda ao: ao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False),
    "int8_weight_only": lambda ao: ao.Int8WeightOnlyConfig(set_inductor_config=False),
    "fp8": lambda ao: ao.Float8DynamicActivationFloat8WeightConfig(set_inductor_config=False),
    "fp8_weight_only": lambda ao: ao.Float8WeightOnlyConfig(set_inductor_config=False),
}


class Launches(TorchDispatchMode):
    """Kernels over a whole activation, weight or result, in order: bytes read and written of an element.
    small: the others."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: dict[int, list[tuple[float, float]]] = {}
        self.small = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in ("mm", "_int_mm", "_scaled_mm"):
            return out
        given = [each for each in args if isinstance(each, torch.Tensor)]
        size = max(each.numel() for each in (*given, out))
        if size < ROWS * DEPTH:
            self.small += 1
            return out
        reads = sum(each.element_size() for each in given if each.numel() == size and 0 not in each.stride())
        self.whole.setdefault(size, []).append((reads, out.element_size() if out.numel() == size else 0))
        return out


@pytest.mark.parametrize("scheme", CONFIGURATIONS)
def test_a_linear_launches_what_torchao_does(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ao = pytest.importorskip("torchao.quantization")
    for name, answer in {"is_sm_at_least_89": True, "_check_hardware_support": None}.items():
        monkeypatch.setattr(f"torchao.quantization.quant_api.{name}", lambda *_, answer=answer: answer)
    # As on a GPU: there the integer product has a function of its own on the CPU.
    monkeypatch.setattr("torchao.kernel.intmm._is_device", lambda *_: False)
    monkeypatch.setattr("torchao.kernel.intmm.safe_int_mm", lambda a, b: torch._int_mm(a, b))
    layer = torch.nn.Sequential(torch.nn.Linear(DEPTH, COLUMNS, dtype=torch.bfloat16))
    ao.quantize_(layer, CONFIGURATIONS[scheme](ao))
    x = torch.zeros(ROWS, DEPTH, dtype=torch.bfloat16)
    with torch.no_grad(), Launches() as found:
        layer(x)

    def told(passes: tuple[Pass, ...]) -> list[tuple[float, float]]:
        return [tuple(2 if each is WIDE else each for each in one[:2]) for one in passes]  # type: ignore[misc]

    eager = SCHEMES[scheme].eager
    assert found.whole.get(ROWS * DEPTH, []) == told(eager.activation)
    assert found.whole.get(DEPTH * COLUMNS, []) == told(eager.weight)
    assert found.whole.get(ROWS * COLUMNS, []) == told(eager.result)
    assert found.small == eager.small - (7 if eager.reads else 0)


def test_torchao_prints_what_it_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """`safe_int_mm` asks for a `repr`: the host reads 36 values and 12 rows of three."""
    intmm = pytest.importorskip("torchao.kernel.intmm")
    assert "__repr__()" in inspect.getsource(intmm.safe_int_mm)
    reads: list[str] = []
    x = torch.zeros(ROWS, DEPTH, dtype=torch.int8)
    for name in ("item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name), reads))
    x.__repr__()
    assert len(reads) == SCHEMES["int8"].eager.reads


def counted(read: Any, reads: list[str]) -> Any:
    def reading(tensor: torch.Tensor) -> Any:
        reads.append(read.__name__)
        return read(tensor)

    return reading


def test_the_host_waits_in_each_linear_and_is_timed() -> None:
    found = kernels("int8", 4608)
    assert sum(each.read for each in found) == 48
    assert sum(each.host_us > 0 for each in found) == 12 + 20 + 48 + 1


def test_few_rows_are_computed_in_float32_and_once_by_the_host() -> None:
    assert max(kernels("int8", 16), key=lambda k: k.device_us).dtype == "fp32"
    assert kernels("int8", 17)[-6].dtype == "int8"
    model = CostModel(load_spec("h100"), Mode(scheme=SCHEMES["int8"].before))
    then = model.kernels(linear(1, 3072, 18432), quantized=True)
    assert max(each.host_us for each in then) == pytest.approx(64e3, rel=0.02)
    assert sum(each.read for each in then) == 49
