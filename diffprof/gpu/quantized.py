"""Linears with quantized operands: which type computes them, and what is done beside the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

WIDE = None
"""Of a pass: in the type of the layer's own activation."""

Pass: TypeAlias = tuple[float | None, float | None]
"""Bytes that a kernel reads and writes for each element; a reduction writes 0."""


@dataclass(frozen=True)
class Eager:
    """What one linear launches beside its product where nothing is fused: kernels over its weight, over its
    activation, and over its result. From the libraries' own Python."""

    weight: tuple[Pass, ...] = ()
    activation: tuple[Pass, ...] = ()
    result: tuple[Pass, ...] = ()


SCALED: Pass = (WIDE, WIDE)
"""Multiplied by a scale, or added to a zero point or bias."""

CAST_AND_SCALED = Eager(weight=((1, WIDE),), result=(SCALED, SCALED))
"""The weight is cast to the activation's type; the result is scaled and its bias added (torchao, quanto)."""

LOOKED_UP = Eager(weight=((0.5625, WIDE),))
"""One kernel unpacks and scales (bitsandbytes `dequantize_4bit`)."""

QUANTIZED_ROWS = Eager(
    activation=((WIDE, 0), (WIDE, 0), SCALED, SCALED, SCALED, (WIDE, 1)),
    result=((4, WIDE), SCALED, SCALED),
)
"""torchao INT8: least and largest of a row, scale, round, clamp, cast; int32 sums scaled by row and column,
and the bias."""

COLUMNS_AND_ROWS = Eager(
    activation=((WIDE, 2), (2, 0), (2, 2), (1, 1), (1, 1)),
    result=((4, 2), (2, WIDE), SCALED, SCALED),
)
"""bitsandbytes INT8 (`MatMul8bitLt.forward`): cast to float16, largest of rows and columns, both roundings at
once, outlier columns set to zero, the layout that cuBLASLt wants; int32 sums scaled, cast back, the outliers'
product and the bias added."""

QUANTIZED_FLOATS = Eager(activation=(SCALED, (WIDE, 0), (WIDE, 4), (4, 4), (4, 1)))
"""torchao FP8: absolute values and the largest, scale in float32, clamp, cast; the product scales itself."""


@dataclass(frozen=True)
class LinearScheme:
    """One way to quantize linears.

    kind: type whose units compute the product; None where weights alone are stored in fewer bits and the
    product is the layer's own. bits: of a stored weight. scales: of the activation: one a `tensor`, a `row`
    or a `block`. eager: kernels of its own without a compiler; empty where one kernel does it all. row_major:
    without a compiler the product reads its weight row by row, put in that order first. tiny: the product is
    `_weight_int4pack_mm`. unsure: modes in which kernels of a library run that no table holds; margin: half
    width of their range; None where it is not known. at_least: what is not priced.
    """

    key: str
    kind: str | None
    bits: float
    scales: str | None = None
    eager: Eager = Eager()
    unsure: tuple[str, ...] = ()
    row_major: bool = False
    tiny: bool = False
    margin: float | None = 0.5
    at_least: str = ""


BOTH = ("eager", "compiled")

SCHEMES = {
    scheme.key: scheme
    for scheme in (
        LinearScheme("int8", "int8", 8, "row", QUANTIZED_ROWS, ("eager",), row_major=True),
        LinearScheme("fp8", "fp8", 8, "tensor", QUANTIZED_FLOATS),
        LinearScheme("fp8_row", "fp8", 8, "row", QUANTIZED_FLOATS),
        LinearScheme("mxfp8", "fp8", 8.25, "block", QUANTIZED_FLOATS),
        LinearScheme("nvfp4", "fp4", 4.5, "block", QUANTIZED_FLOATS),
        LinearScheme("int8_weight_only", None, 8, eager=CAST_AND_SCALED),
        LinearScheme("fp8_weight_only", None, 8, eager=Eager(weight=((1, WIDE), SCALED))),
        LinearScheme("int4_weight_only", None, 4.5, unsure=BOTH, tiny=True),
        LinearScheme(
            "int4_dynamic", None, 8.5,
            eager=Eager(((1, WIDE), SCALED, SCALED), (*QUANTIZED_ROWS.activation, (1, WIDE), SCALED)),
            unsure=BOTH,
        ),
        LinearScheme("fp6_weight_only", None, 6, unsure=BOTH),
        LinearScheme("fp5_weight_only", None, 5, unsure=BOTH),
        LinearScheme("fp4_weight_only", None, 4, unsure=BOTH),
        LinearScheme("nf4", None, 4.5, eager=LOOKED_UP),
        LinearScheme(
            "bnb_int8", "int8", 8, "row", COLUMNS_AND_ROWS, BOTH, margin=None,
            at_least="bitsandbytes waits for the device in each linear, to count outliers",
        ),
        LinearScheme("quanto_8bit", None, 8, eager=CAST_AND_SCALED),
        LinearScheme("quanto_4bit", None, 4.5, unsure=BOTH, tiny=True),
    )
}  # fmt: skip
"""Schemes by name; bits count the scales of blocks (32 weights under 8 bits, 16 under 4.5). quanto's four
bits are tinygemm's in bfloat16 (`optimum/quanto/tensor/weights/tinygemm`)."""


def quantizing_passes(scheme: LinearScheme, elements: int, width: int) -> tuple[float, ...]:
    """Bytes of each kernel that quantizes an activation of so many elements of `width` bytes.

    One scale for the tensor has to be known before anything is rounded: a pass of its own.
    """
    if scheme.scales is None:
        return ()
    narrow = 0.5 if scheme.kind == "fp4" else 1.0
    rounding = elements * (width + narrow)
    return (float(elements * width), rounding) if scheme.scales == "tensor" else (rounding,)


def passes_left(scheme: LinearScheme, *, again: bool, generated: bool) -> slice:
    """Which of the passes are kernels of their own in a graph that Inductor compiles.

    again: the activation was quantized for the linear before. generated: a kernel that Inductor generates
    makes it and does so row by row: then what needs no more than a row is part of that kernel, and so is a
    tensor's largest element.
    """
    if again:
        return slice(0, 0)
    if not generated:
        return slice(None)
    return slice(1, None) if scheme.scales == "tensor" else slice(0, 0)


def eager_bytes(passes: Sequence[Pass], elements: int, width: int) -> tuple[float, ...]:
    """Bytes that each of these kernels moves for so many elements of a type of `width` bytes."""
    return tuple(elements * sum(width if each is WIDE else each for each in one) for one in passes)


def saved_bytes(scheme: LinearScheme, depth: int, columns: int, width: int) -> int:
    """Bytes that a weight of `width` bytes an element takes less; a scale a row is kept beside."""
    return int(depth * columns * (width - scheme.bits / 8) - columns * width)
