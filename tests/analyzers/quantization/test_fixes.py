"""The fix of unquantized linears where simulated costs choose: 1x1 convolutions are swapped first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from msgspec.structs import replace

from diffprof.analyzers.quantization.fixes import modelled, quantize_linears
from diffprof.judge.judging import make_report
from diffprof.model.fix import Code, Skipped
from diffprof.model.recording import Grade, KernelRow, KindCosts, Projection, Recording, Setup, SetupPart
from tests.analyzers.quantization import examples
from tests.analyzers.quantization.examples import make_row, make_selection, make_timing
from tests.builders import make_recording


def projection(
    pattern: str, shape: tuple[int, int], kind: str = "linear", int8_us: float = 80.0
) -> Projection:
    return Projection(
        component="unet",
        pattern=pattern,
        in_features=shape[0],
        out_features=shape[1],
        rows=2048,
        count=2,
        now_us=100.0,
        int8_us=int8_us,
        kind=kind,
    )


def recorded(*projections: Projection) -> Recording:
    kernels = [
        KernelRow(
            name=op,
            op=op,
            module=f"unet.{module}",
            family="gemm",
            shape=shape,
            device_us=100.0,
            count=1,
        )
        for op, module, shape in (
            ("linear", "blocks.0.proj", "2x1024x32, 64x32, 64"),
            ("conv2d", "blocks.0.shortcut", "2x32x32x32, 64x32x1x1, 64"),
            ("conv2d", "blocks.1.shortcut", "2x32x32x32, 64x32x1x1, 64"),
            ("conv2d", "blocks.0.conv", "2x32x32x32, 64x32x3x3, 64"),
        )
    ]
    part = SetupPart(name="unet", role="denoiser", linears=1)
    costs = KindCosts(grade=Grade.SIMULATED, projections=projections)
    return make_recording(kernels=tuple(kernels), setup=Setup(parts=(part,), costs=costs))


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = torch.nn.Linear(32, 64)
        self.shortcut = torch.nn.Conv2d(32, 64, 1)
        self.conv = torch.nn.Conv2d(32, 64, 3, padding=1)


class Pipe:
    def __init__(self) -> None:
        self.unet = torch.nn.Module()
        self.unet.blocks = torch.nn.ModuleList([Block(), Block()])


def quantized(pipe: Any) -> set[str]:
    from diffprof.analyzers.quantization.layers import weights_are_quantized

    return {name for name, module in pipe.unet.named_modules() if weights_are_quantized(module)}


def test_convolutions_that_gain_are_swapped_and_quantized() -> None:
    recording = recorded(
        projection("blocks.*.shortcut", (32, 64), "conv1x1"),
        projection("blocks.*.proj", (32, 64), int8_us=99.0),
    )
    code = quantize_linears(recording, ())
    assert isinstance(code, Code)
    assert code.optimize.index("swap_conv2d_1x1_to_linear(") < code.optimize.index("quantize_(")
    names: dict[str, Any] = {"pipe": (pipe := Pipe())}
    exec("\n".join([*code.imports, code.definitions, code.optimize]), names)
    assert quantized(pipe) == {"blocks.0.shortcut.mod", "blocks.1.shortcut.mod"}
    assert modelled(recording, ()).int8 == ("unet.blocks.0.shortcut", "unet.blocks.1.shortcut")


@pytest.mark.parametrize("capability", ["8.0", "7.5"])
def test_int8_leaves_float16_whose_range_its_products_leave(capability: str) -> None:
    """torchao rounds them to float16 before it scales them. Turing has no bfloat16 to go to."""
    recording = recorded(projection("blocks.*.proj", (32, 64)))
    assert recording.setup is not None
    part = replace(recording.setup.parts[0], dtypes={"float16": 10})
    device = replace(recording.device, kind="cuda", details={"capability": capability})
    target = replace(recording.target, dtypes={"prompt_embeds": "float16", "mask": "bool"})
    setup = replace(recording.setup, parts=(part,))
    code = quantize_linears(replace(recording, setup=setup, device=device, target=target), ())
    row = make_row(make_timing(), worth_it=True)
    timed = examples.recorded(row, selections=(make_selection(),))
    judged = make_report(replace(timed, setup=setup, device=device))
    assert ("QNT001" in {finding.rule for finding in judged.findings}) == (capability == "8.0")
    if capability == "7.5":
        assert isinstance(code, Skipped)
        assert "neither this device" in code.why
        return
    assert isinstance(code, Code)
    assert code.optimize.startswith("pipe.to(torch.bfloat16)")
    assert code.call == 'kwargs["prompt_embeds"] = kwargs["prompt_embeds"].to(torch.bfloat16)'


def test_layers_inside_an_adapter_s_wrapper_are_told_by_both_names() -> None:
    recording = recorded(projection("blocks.*.proj", (32, 64)))
    kernels = tuple(
        replace(row, module=row.module + ".base_layer") if row.op == "linear" else row
        for row in recording.kernels
    )
    assert modelled(replace(recording, kernels=kernels), ()).int8 == (
        *("unet.blocks.0.proj.base_layer", "unet.blocks.0.proj"),
    )


@pytest.mark.parametrize("shape", [(32, 64), (64, 32)])
def test_linears_alone_need_no_swap(shape: tuple[int, int]) -> None:
    recording = recorded(
        projection("blocks.*.shortcut", (32, 64), "conv1x1", int8_us=99.0),
        projection("blocks.*.proj", shape),
    )
    code = quantize_linears(recording, ())
    assert isinstance(code, Code)
    assert "swap" not in code.optimize
    expected = ("unet.blocks.0.proj",) if shape == (32, 64) else ()
    assert modelled(recording, ()).int8 == expected


def test_the_twin_takes_the_same_layers() -> None:
    from diffprof.tuning.trial import _quantized

    pipe = Pipe()
    pipe.components = {"unet": pipe.unet}
    assert _quantized(pipe, ["unet.blocks.0.shortcut", "unet.blocks.1.proj"]) is None
    assert quantized(pipe) == {"blocks.0.shortcut.mod", "blocks.1.proj"}
