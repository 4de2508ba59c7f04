"""Single kernels to measure: products, attention, convolutions, pointwise work, norms and copies as diffusion
models have them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Work = Callable[[], object]
Empty = Callable[["tuple[int, ...]", "torch.dtype"], "torch.Tensor"]
Build = Callable[[ModuleType, Empty], Work]
Operation = Callable[[ModuleType, "torch.Tensor"], "torch.Tensor"]

ROWS = (1, 77, 154, 512, 1024, 2048, 4096, 8192, 16384)
"""Tokens, and rows of conditioning."""

WIDTHS = (
    *((640, 640), (1280, 1280), (2048, 1280), (1280, 10240), (5120, 1280), (640, 5120), (2560, 640)),  # SDXL
    *((3072, 3072), (3072, 9216), (3072, 12288), (12288, 3072), (15360, 3072)),  # Flux
    *((1536, 1536), (1536, 8960), (5120, 5120), (5120, 13824), (4096, 10240)),  # Wan, T5
)
"""(in, out) features."""

HEADS = ((10, 64), (20, 64), (24, 128), (12, 128), (40, 128), (16, 72))
TOKENS = (77, 256, 1024, 4096, 8192, 16384)

CONVOLUTIONS = (
    *((320, 320, 128), (640, 640, 64), (1280, 1280, 32), (960, 320, 128), (1920, 640, 64), (2560, 1280, 32)),
    *((128, 128, 1024), (256, 256, 512), (512, 512, 256), (512, 512, 128), (4, 320, 128), (128, 3, 1024)),
)
"""(in, out, side): the SDXL UNet's at 1024 x 1024, and the VAE's."""

SIZES = (2**16, 2**20, 2**22, 2**24, 2**26)
"""Elements."""


@dataclass(frozen=True)
class KernelShape:
    """One kernel. fields: what identifies it in its table. build: (torch, empty) -> work, where
    `empty(shape, dtype)` makes a tensor."""

    family: str
    op: str
    dtype: str
    fields: tuple[tuple[str, Any], ...]
    build: Build

    @property
    def key(self) -> str:
        return " ".join([self.op, self.dtype, *(f"{name}={value}" for name, value in self.fields)])


def shapes(short: bool) -> list[KernelShape]:
    """All of them, about 400, those of each family mixed so that what a short time leaves is of every kind; a
    few small ones for a rehearsal."""
    families = [list(make()) for make in (products, attention, convolutions, pointwise, norms, copies)]
    mixed = [shape for group in itertools.zip_longest(*families) for shape in group if shape is not None]
    if not short:
        return mixed
    small = [shape for shape in mixed if _elements(shape) <= 2**21]
    kinds: dict[str, list[KernelShape]] = {}
    for shape in small:
        kinds.setdefault(shape.family, []).append(shape)
    return [shape for found in kinds.values() for shape in found[:2]]


def _elements(shape: KernelShape) -> int:
    """About how much work a shape is, in elements that it reads."""
    fields = dict(shape.fields)
    if shape.family == "gemm":
        return fields["m"] * fields["n"] + fields["n"] * fields["k"]
    if shape.family == "attention":
        return fields["tokens"] ** 2 * fields["num_heads"]
    if shape.family == "convolution":
        return fields["side"] ** 2 * fields["cin"] * 9
    return fields.get("elements", 0) or fields["rows"] * fields["width"]


def products() -> Iterator[KernelShape]:
    for (k, n), m in itertools.product(WIDTHS, ROWS):
        yield KernelShape("gemm", "linear", "bfloat16", (("m", m), ("n", n), ("k", k)), _linear(m, n, k))
    for (k, n), m, dtype in itertools.product(WIDTHS[:4], (1024, 4096), ("float16", "float32")):
        yield KernelShape("gemm", "linear", dtype, (("m", m), ("n", n), ("k", k)), _linear(m, n, k, dtype))


def _linear(m: int, n: int, k: int, dtype: str = "bfloat16") -> Build:
    def build(torch: ModuleType, empty: Empty) -> Work:
        x = empty((m, k), getattr(torch, dtype))
        w = empty((n, k), getattr(torch, dtype))
        return lambda: torch.nn.functional.linear(x, w)

    return build


BACKENDS = ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION")


def attention() -> Iterator[KernelShape]:
    for (heads, size), tokens, batch in itertools.product(HEADS, TOKENS, (1, 2)):
        fields = (("batch_size", batch), ("tokens", tokens), ("num_heads", heads), ("head_dim", size))
        if batch == 1 or tokens <= 4096:
            yield KernelShape("attention", "sdpa", "bfloat16", fields, _attention(batch, heads, tokens, size))
    for (heads, size), tokens, backend in itertools.product(HEADS[:3], (1024, 4096, 8192), BACKENDS):
        fields = (("batch_size", 1), ("tokens", tokens), ("num_heads", heads), ("head_dim", size))
        op = f"sdpa-{backend.lower().partition('_')[0]}"
        yield KernelShape("attention", op, "bfloat16", fields, _attention(1, heads, tokens, size, backend))


def _attention(batch: int, heads: int, tokens: int, size: int, backend: str | None = None) -> Build:
    def build(torch: ModuleType, empty: Empty) -> Work:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = (empty((batch, heads, tokens, size), torch.bfloat16) for _ in range(3))

        def run() -> object:
            if backend is None:
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v)

        return run

    return build


def convolutions() -> Iterator[KernelShape]:
    for (cin, cout, side), layout in itertools.product(CONVOLUTIONS, ("contiguous", "channels_last")):
        fields = (("cin", cin), ("cout", cout), ("side", side), ("kernel", 3), ("layout", layout))
        yield KernelShape("convolution", "conv2d", "bfloat16", fields, _convolution(cin, cout, side, layout))


def _convolution(cin: int, cout: int, side: int, layout: str) -> Build:
    def build(torch: ModuleType, empty: Empty) -> Work:
        form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        x = empty((1, cin, side, side), torch.bfloat16).to(memory_format=form)
        w = empty((cout, cin, 3, 3), torch.bfloat16).to(memory_format=form)
        return lambda: torch.nn.functional.conv2d(x, w, padding=1)

    return build


POINTWISE: dict[str, Operation] = {
    "add": lambda torch, x: x + x,
    "mul": lambda torch, x: x * 2.0,
    "silu": lambda torch, x: torch.nn.functional.silu(x),
    "gelu": lambda torch, x: torch.nn.functional.gelu(x),
    "softmax": lambda torch, x: torch.softmax(x.view(-1, 1024), -1),
    "cat": lambda torch, x: torch.cat([x, x]),
}


def pointwise() -> Iterator[KernelShape]:
    for (op, run), size, dtype in itertools.product(POINTWISE.items(), SIZES, ("bfloat16", "float32")):
        yield KernelShape("pointwise", op, dtype, (("elements", size),), _of_vector(size, dtype, run))


def _of_vector(size: int, dtype: str, run: Operation) -> Build:
    def build(torch: ModuleType, empty: Empty) -> Work:
        x = empty((size,), getattr(torch, dtype))
        return lambda: run(torch, x)

    return build


def norms() -> Iterator[KernelShape]:
    for rows, width, op in itertools.product(
        (1024, 4096, 16384), (640, 1280, 3072), ("layer_norm", "rms_norm")
    ):
        yield KernelShape("norm", op, "bfloat16", (("rows", rows), ("width", width)), _norm(op, rows, width))
    for channels, side in ((320, 128), (640, 64), (1280, 32), (128, 1024), (512, 256)):
        fields = (("rows", side * side), ("width", channels))
        yield KernelShape("norm", "group_norm", "bfloat16", fields, _group_norm(channels, side))


def _norm(op: str, rows: int, width: int) -> Build:
    def build(torch: ModuleType, empty: Empty) -> Work:
        x = empty((1, rows, width), torch.bfloat16)
        w = empty((width,), torch.bfloat16)
        return lambda: getattr(torch.nn.functional, op)(x, (width,), w)

    return build


def _group_norm(channels: int, side: int) -> Build:
    def build(torch: ModuleType, empty: Empty) -> Work:
        x = empty((1, channels, side, side), torch.bfloat16)
        w = empty((channels,), torch.bfloat16)
        return lambda: torch.nn.functional.group_norm(x, 32, w, w)

    return build


COPIES: dict[str, Operation] = {
    "copy": lambda torch, x: x.clone(),
    "cast": lambda torch, x: x.to(torch.float32),
    "transpose": lambda torch, x: x.view(-1, 256).t().contiguous(),
    "fill": lambda torch, x: torch.zeros_like(x),
}


def copies() -> Iterator[KernelShape]:
    for (op, run), size in itertools.product(COPIES.items(), SIZES):
        yield KernelShape("copy", op, "bfloat16", (("elements", size),), _of_vector(size, "bfloat16", run))
