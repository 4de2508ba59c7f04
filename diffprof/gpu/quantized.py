"""Linears with quantized operands: which type computes them, and what is done beside the product."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from .pointwise import Addressing

WIDE = None
"""Of a pass: in the type of the layer's own activation."""


class Pass(NamedTuple):
    """A kernel over each element of a tensor: bytes that it reads and writes of one; a reduction writes 0."""

    reads: float | None
    writes: float | None
    addressing: Addressing = Addressing.CONTIGUOUS


@dataclass(frozen=True)
class Eager:
    """What one linear launches beside its product where nothing is fused: kernels over its weight, over its
    activation, and over its result. From the libraries' own Python.

    small: kernels over a value a row, or less. reads: values that the CPU reads before the product, one
    after another.
    """

    weight: tuple[Pass, ...] = ()
    activation: tuple[Pass, ...] = ()
    result: tuple[Pass, ...] = ()
    small: int = 0
    reads: int = 0


SCALED = Pass(WIDE, WIDE, Addressing.BROADCAST)
"""Multiplied by a scale, or with a zero point or bias added."""

LARGEST = Pass(WIDE, 0, Addressing.REDUCED)

ROUNDED = Pass(WIDE, WIDE)

WIDENED = Pass(1, WIDE, Addressing.CAST_UP)

CAST_AND_SCALED = Eager(weight=(WIDENED,), result=(SCALED, SCALED), small=1)
"""The weight is cast to the activation's type; the result is scaled and its bias added (torchao, quanto)."""

LOOKED_UP = Eager(weight=(Pass(0.5625, WIDE),))
"""One kernel unpacks and scales (bitsandbytes `dequantize_4bit`)."""

ROUNDED_ROWS = (
    LARGEST,
    LARGEST,
    Pass(WIDE, 4, Addressing.BROADCAST_MIXED),
    Pass(4, 4),
    Pass(4, 4, Addressing.BROADCAST_MIXED),
    Pass(4, 4),
    Pass(4, 1),
)
"""torchao's `choose_qparams_affine` and `quantize_affine` of rows: least and largest, times the scales in
float32, round, add the zero points, clamp, cast."""

ROUNDED_ROWS_OF_2024 = (LARGEST, LARGEST, SCALED, ROUNDED, SCALED, ROUNDED, Pass(WIDE, 1))
"""The same before torchao took float32 scales: all in the activation's type."""

QUANTIZED_ROWS = Eager(
    activation=ROUNDED_ROWS,
    result=(
        Pass(4, 4, Addressing.BROADCAST_MIXED),
        Pass(4, WIDE),
        Pass(WIDE, 4, Addressing.BROADCAST_MIXED),
        Pass(4, 4, Addressing.BROADCAST_MIXED),
        Pass(4, WIDE),
    ),
    small=20,
    reads=48,
)
"""torchao INT8: int32 sums scaled by row and cast, scaled by column in float32, the bias, and a cast again.
Small are 13 kernels that make the scales, and seven of a `repr`: `safe_int_mm` asks whether that says
FakeTensor, and it prints the corners of the matrix: the CPU reads 36 values and 12 rows of three."""

QUANTIZED_ROWS_OF_2024 = replace(
    QUANTIZED_ROWS,
    activation=ROUNDED_ROWS_OF_2024,
    result=(Pass(4, WIDE, Addressing.BROADCAST_MIXED), SCALED, SCALED),
)

COLUMNS_AND_ROWS = Eager(
    activation=(
        Pass(WIDE, 2),
        Pass(2, 2),
        Pass(2, 1),
        Pass(1, 0, Addressing.REDUCED),
        Pass(1, 0, Addressing.REDUCED),
        Pass(2, 1),
    ),
    result=(Pass(4, 2), Pass(2, 2, Addressing.BROADCAST_MIXED), Pass(2, WIDE), Pass(WIDE, WIDE)),
    small=12,
    reads=2,
)
"""bitsandbytes INT8 (`MatMul8bitLt.forward`): cast to float16, absolute values, which are outliers, whether
any is, in which columns, rounded by row; int32 sums scaled, the bias, cast back, and the outliers' product
added. The CPU reads whether there are outliers, and in how many columns; 12 small kernels find, pick and
widen those."""

QUANTIZED_FLOATS_OF_2024 = Eager(activation=(LARGEST, LARGEST, SCALED, ROUNDED, Pass(WIDE, 1)), small=7)

WEIGHT_SCALED_IN_2024 = Eager(weight=(WIDENED, SCALED))

SCALED_IN_FLOAT32 = Eager(
    weight=(Pass(1, 4, Addressing.CAST_UP), Pass(4, 4, Addressing.BROADCAST_WIDE), Pass(4, WIDE)),
    result=(SCALED,),
)
"""torchao's FP8 weights: cast to float32, scaled, cast; the result's bias."""

QUANTIZED_FLOATS = Eager(
    activation=(
        Pass(WIDE, WIDE),
        LARGEST,
        Pass(WIDE, 4, Addressing.CAST_UP),
        Pass(4, 4, Addressing.BROADCAST_WIDE),
        Pass(4, 4),
        Pass(4, 1),
    ),
    small=2,
)
"""torchao FP8: absolute values and the largest, cast to float32, over the scale, clamp, cast; the product
scales itself."""


FEW_ROWS = 16
"""Rows up to which `torch._int_mm` refuses a product: torchao computes it in float32."""


@dataclass(frozen=True)
class LinearScheme:
    """One way to quantize linears.

    kind: type whose units compute the product; None where weights alone are stored in fewer bits and the
    product is the layer's own. bits: of a stored weight. scales: of the activation: one a `tensor`, a `row`
    or a `block`. eager: kernels of its own without a compiler; empty where one kernel does it all. row_major:
    without a compiler the product reads its weight row by row, put in that order first, if it has more than
    FEW_ROWS. tiny: the product is `_weight_int4pack_mm`. unsure: modes in which kernels of a library run that
    no table holds; margin: half width of their range. earlier: the kernels of its own in torchao of 2024;
    few_rows_on_host: then the CPU computed what has no more than FEW_ROWS.
    """

    key: str
    kind: str | None
    bits: float
    scales: str | None = None
    eager: Eager = Eager()
    unsure: tuple[str, ...] = ()
    row_major: bool = False
    tiny: bool = False
    margin: float = 0.5
    earlier: Eager | None = None
    few_rows_on_host: bool = False

    @property
    def before(self) -> LinearScheme | None:
        """As torchao of 2024 ran it; None where that was no other way."""
        if self.earlier is None:
            return None
        return replace(self, eager=self.earlier, few_rows_on_host=self.row_major)


BOTH = ("eager", "compiled")

SCHEMES = {
    scheme.key: scheme
    for scheme in (
        LinearScheme(
            "int8", "int8", 8, "row", QUANTIZED_ROWS, ("eager",), row_major=True,
            earlier=QUANTIZED_ROWS_OF_2024,
        ),
        LinearScheme("fp8", "fp8", 8, "tensor", QUANTIZED_FLOATS, earlier=QUANTIZED_FLOATS_OF_2024),
        LinearScheme("fp8_row", "fp8", 8, "row", QUANTIZED_FLOATS, earlier=QUANTIZED_FLOATS_OF_2024),
        LinearScheme("mxfp8", "fp8", 8.25, "block", QUANTIZED_FLOATS),
        LinearScheme("nvfp4", "fp4", 4.5, "block", QUANTIZED_FLOATS),
        LinearScheme("int8_weight_only", None, 8, eager=CAST_AND_SCALED),
        LinearScheme("fp8_weight_only", None, 8, eager=SCALED_IN_FLOAT32, earlier=WEIGHT_SCALED_IN_2024),
        LinearScheme("int4_weight_only", None, 4.5, unsure=BOTH, tiny=True),
        LinearScheme(
            "int4_dynamic", None, 8.5,
            eager=Eager((WIDENED, SCALED, SCALED), (*ROUNDED_ROWS_OF_2024, WIDENED, SCALED), small=13),
            unsure=BOTH,
        ),
        LinearScheme("fp6_weight_only", None, 6, unsure=BOTH),
        LinearScheme("fp5_weight_only", None, 5, unsure=BOTH),
        LinearScheme("fp4_weight_only", None, 4, unsure=BOTH),
        LinearScheme("nf4", None, 4.5, eager=LOOKED_UP),
        LinearScheme("bnb_int8", "int8", 8, "row", COLUMNS_AND_ROWS, BOTH),
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


def moved_by(one: Pass, elements: int, width: int) -> float:
    """Bytes that a pass moves for so many elements of a type of `width` bytes."""
    return float(elements * sum(width if each is WIDE else each for each in (one.reads, one.writes)))


def saved_bytes(scheme: LinearScheme, depth: int, columns: int, width: int) -> int:
    """Bytes that a weight of `width` bytes an element takes less; a scale a row is kept beside."""
    return int(depth * columns * (width - scheme.bits / 8) - columns * width)
