"""Linears with quantized operands: which type computes them, and what quantizing the activation takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LinearScheme:
    """One way to quantize the linears of a compiled part.

    kind: type whose units compute the product; None where weights alone are stored in fewer bits and the
    product is the layer's own. bits: of a stored weight. scales: of the activation: one a `tensor`, a `row`
    or a `block`.
    """

    key: str
    kind: str | None
    bits: float
    scales: str | None = None


SCHEMES = {
    scheme.key: scheme
    for scheme in (
        LinearScheme("int8", "int8", 8, "row"),
        LinearScheme("fp8", "fp8", 8, "tensor"),
        LinearScheme("fp8_row", "fp8", 8, "row"),
        LinearScheme("mxfp8", "fp8", 8.25, "block"),
        LinearScheme("nvfp4", "fp4", 4.5, "block"),
        LinearScheme("int8_weight_only", None, 8),
        LinearScheme("fp8_weight_only", None, 8),
        LinearScheme("int4_weight_only", None, 4.5),
        LinearScheme("nf4", None, 4.5),
    )
}
"""Schemes by name; bits count the scales of blocks (32 weights under 8 bits, 16 under 4.5)."""


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


def saved_bytes(scheme: LinearScheme, depth: int, columns: int, width: int) -> int:
    """Bytes that a weight of `width` bytes an element takes less; a scale a row is kept beside."""
    return int(depth * columns * (width - scheme.bits / 8) - columns * width)
