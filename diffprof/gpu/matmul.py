"""Matrix products: from the GPU's table, from a sibling's, or from tiles and waves."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

from .calibration import correction
from .memory import CACHE_BYTES_A_CLOCK, floor_us
from .pricing import Origin, Time
from .tables import KernelTable, Trend, load_table

if TYPE_CHECKING:
    from .specs import GpuSpec

TILES = ((256, 128, 1.0), (128, 128, 0.95), (128, 64, 0.8), (64, 64, 0.6))
"""(rows, columns, share of the best rate) of output tiles [docs.nvidia.com/deeplearning/performance/
dl-performance-matrix-multiplication]."""

TILES_HALF_RATE = ((256, 128, 1.0), (128, 128, 1.0), (128, 64, 0.97), (64, 64, 0.92))
"""Where 16-bit products are summed at half rate, small tiles lose less: cuBLAS on an RTX 3090 reaches 68 of
76 TFLOPS at 1280^3, which only 64x64 tiles can, and 66 and 53 at 1536^3 and 1664^3 [triton-lang/triton
issue 319]."""

PROLOGUE = 144
"""Elements along the depth that a tile's start and end cost, as if they were computed: a line through the
A100's table at 4096x4096 and depths of 256 to 4,096 meets zero time at -160, of which 2 us are the kernel's
start."""

MEMORY_SHARE = 0.75
"""Bandwidth that a product bound by memory reaches: medians of the tables' products with 8 to 64 rows and
more than 60 MB are 0.70 (A100), 0.74 (B200), 0.77 (H200) and 0.83 (H100)."""

INT8_GENERATED = {(8, 0): 0.77}
"""INT8 products that Inductor generates, against those of TensorRT-LLM that the table holds. [FIT] to the
INT8 rungs of the same ladders."""

WAVES_SHARE = {(8, 0): 0.5, (8, 9): 0.5}
"""Capability -> power of the waves that tables are interpolated over: waves show in cuBLAS on Ampere and
Ada, and not from Hopper on, where it chooses among more tiles. By leaving points out of the tables."""

SAME_UNITS = {"fp16": "bf16", "bf16": "bf16", "fp8": "fp8", "int8": "int8", "fp4": "nvfp4"}
"""Type -> table that holds its times."""

LARGE = 2.0**31
"""Multiply-adds from which a board limited by power holds its sustained rate, not its best."""


def matmul(spec: GpuSpec, batch: int, rows: int, columns: int, depth: int, kind: str, width: int) -> Time:
    """The time of `batch` products (rows, depth) @ (depth, columns) in a type; width: bytes of one
    element."""
    flops = 2.0 * batch * rows * columns * depth
    moved = batch * (rows * depth + depth * columns + rows * columns) * width
    floor = max(flops / spec.ceiling(kind) * 1e6, floor_us(spec, moved))
    if spec.calibration is not None:
        return _calibrated(spec, (batch, rows, columns, depth), kind, width, floor)
    found = _tabled(spec, batch, rows, columns, depth, kind)
    if found is not None:
        us, origin = found
        return Time(max(us, floor), floor, origin, flops / spec.flops(kind) * 1e6 > moved / spec.bytes_per_us)
    tiles = tiles_us(spec, batch, rows, columns, depth, kind)
    memory = moved / (spec.bytes_per_us * MEMORY_SHARE)
    return Time(max(tiles, memory, floor), floor, Origin.MODELLED, tiles >= memory)


def _calibrated(spec: GpuSpec, sizes: tuple[int, int, int, int], kind: str, width: int, floor: float) -> Time:
    batch, rows, columns, depth = sizes
    time = matmul(spec.uncalibrated, *sizes, kind, width)
    if spec.measured_on is not None and time.origin is Origin.MEASURED:
        return time
    plain = (spec.measured_on or spec).uncalibrated

    def modelled(m: float, n: float, k: float) -> float:
        return matmul(plain, 1, int(m), int(n), int(k), kind, width).us

    name = f"matmul.{SAME_UNITS.get(kind, kind)}"
    share = correction(spec, name, (float(batch * rows), float(columns), float(depth)), modelled)
    if share is None:
        return time
    return time._replace(us=max(time.us * share, floor), floor=floor, origin=spec.measured)


def weight_only(
    spec: GpuSpec, rows: int, columns: int, depth: int, kind: str, width: int, bits: float
) -> Time:
    """The time of a product whose weights are stored in so many bits and widened as they are loaded: as
    long as the layer's own where arithmetic bounds it, less where its weights are what is moved."""
    whole = matmul(spec, 1, rows, columns, depth, kind, width)
    arithmetic = tiles_us(spec, 1, rows, columns, depth, kind)
    around = (rows * depth + rows * columns) * width
    full, stored = around + depth * columns * width, around + depth * columns * bits / 8
    if arithmetic >= full / (spec.bytes_per_us * MEMORY_SHARE):
        return whole
    floor = max(2.0 * rows * columns * depth / spec.ceiling(kind) * 1e6, floor_us(spec, stored))
    return whole._replace(
        us=max(min(whole.us, max(arithmetic, whole.us * stored / full)), floor), floor=floor
    )


TINY_TILE = (16, 8)
"""Rows and columns that a block of `_weight_int4pack_mm` computes, reading what it needs anew
(`tinygemm_m16n8k16_chunk_kernel` in aten/src/ATen/native/cuda/int4mm.cu, one block a tile)."""

TINY_OF_CACHE = {(8, 6): 0.97, (8, 9): 0.74}
"""Capability -> share of the last cache's rate that tinygemm reaches, where it was measured: 2.20 ms for
1,024 rows of 4096x4096 on an RTX A6000 (torchao's `prototype/hqq/README.md`), 1.25 s for 1.48e13
multiply-adds on an RTX 4090 D. Elsewhere all of it: the caches of an A100 and of an H100 give a processor
more bytes a clock, and nobody has measured this kernel there."""

ROW_MAJOR_INT8 = 235.0
"""INT8 multiply-adds a clock and processor where the right operand lies row by row: cuBLAS has no tensor-core
kernel for that order and takes `igemm_int8_128x128_ldg4_nn`, whose 64 lanes do four each. 0.92 of that on an
RTX 4090 D: 1,400 products of a published torchao profile, 1.48e13 multiply-adds in 219 ms."""


def tiny_us(spec: GpuSpec, rows: int, columns: int, depth: int, width: int, bits: float) -> float:
    """What tinygemm's blocks read through the last cache takes: every tile reads all rows of the activation
    and all columns of the weight that it needs, so that its time grows with the rows."""
    high, wide = TINY_TILE
    activation = rows * width * math.ceil(columns / wide)
    weight = columns * bits / 8 * math.ceil(rows / high)
    share = TINY_OF_CACHE.get(spec.capability, 1.0)
    return depth * (activation + weight) / (share * CACHE_BYTES_A_CLOCK * spec.cycles_per_us)


def row_major_us(spec: GpuSpec, rows: int, columns: int, depth: int) -> float:
    """The time of an INT8 product whose right operand lies row by row."""
    return float(rows) * columns * depth / (ROW_MAJOR_INT8 * spec.cycles_per_us)


# --- tables ---------------------------------------------------------------------------------------------


def _tabled(
    spec: GpuSpec, batch: int, rows: int, columns: int, depth: int, kind: str
) -> tuple[float, Origin] | None:
    """The measured time; None where no table holds such products.

    Products of a batch fill the GPU as one with so many more rows does, if their own rows fill whole tiles.
    """
    if batch > 1 and (rows < 128 or min(columns, depth) < 32):
        return None
    whole = (batch * rows, columns, depth)
    own = table_us(spec, *whole, kind)
    if own is not None:
        return own, Origin.MEASURED
    there = None if spec.sibling is None else table_us(spec.sibling, *whole, kind)
    if spec.sibling is None or there is None:
        return None
    return there * scale(spec, spec.sibling, *whole, kind), Origin.SIBLING


def scale(spec: GpuSpec, sibling: GpuSpec, rows: int, columns: int, depth: int, kind: str) -> float:
    """How much longer a product takes here than on a GPU of the same architecture."""
    flops = 2.0 * rows * columns * depth
    moved = (rows * depth + depth * columns + rows * columns) * 2.0

    def roof(gpu: GpuSpec) -> float:
        # Short products run at the full clock, long ones at what the power limit leaves.
        rate = gpu.sustained(kind) if flops > LARGE else gpu.flops(kind)
        return max(flops / rate * 1e6, moved / (gpu.bytes_per_us * MEMORY_SHARE))

    return roof(spec) / roof(sibling)


def table_us(spec: GpuSpec, rows: int, columns: int, depth: int, kind: str) -> float | None:
    """The time in the GPU's own table; None without one."""
    name = SAME_UNITS.get(kind)
    if name is None or spec.tables is None or kind not in spec.peak:
        return None
    table = load_table(spec.tables, f"matmul.{name}")
    if table is None and name == "int8" and "fp8" in spec.peak:
        # Tensor cores that take FP8 take it and INT8 at one rate.
        name = "fp8"
        table = load_table(spec.tables, "matmul.fp8")
    if table is None:
        return None
    if name in QUANTIZING:
        return _without_quantizing(spec, table, rows, columns, depth)
    us = _interpolated(spec, table, rows, columns, depth)
    return us / INT8_GENERATED.get(spec.capability, 1.0) if name == "int8" else us


QUANTIZING = ("fp8", "nvfp4")
"""Tables whose times include scaling the activation."""

QUANTIZING_SHARE = 0.85
"""Share of a product with 32 columns that is scaling the activation: a line through 2,048 to 16,384 columns
meets none at
0.62 to 0.94 of it."""


def _without_quantizing(spec: GpuSpec, table: KernelTable, rows: int, columns: int, depth: int) -> float:
    us = _interpolated(spec, table, rows, columns, depth)
    return max(0.4 * us, us - QUANTIZING_SHARE * _interpolated(spec, table, rows, 32, depth))


def _interpolated(spec: GpuSpec, table: KernelTable, rows: int, columns: int, depth: int) -> float:
    """The table's time; outside of it the edge's, times the work that is more."""
    point = (float(rows), float(columns), float(depth))
    share = WAVES_SHARE.get(spec.capability)
    us = table.us(*point, trend=tile_area(spec) if share else None, share=share or 1.0)
    beyond = math.prod(value / near for value, near in zip(point, table.nearest(*point), strict=True))
    return us * max(1.0, beyond)


def tile_area(spec: GpuSpec) -> Trend:
    """The part of a product's time that goes in waves: elements that full waves of the best tile compute,
    times the depth."""

    def area(rows: float, columns: float, depth: float) -> float:
        return _waves_area(spec.processors, spec.half_rate, rows, columns) * (depth + PROLOGUE)

    return area


@cache
def _waves_area(processors: int, half_rate: bool, rows: float, columns: float) -> float:
    return min(
        math.ceil(math.ceil(rows / high) * math.ceil(columns / wide) / processors) * high * wide / share
        for tile_rows, tile_columns, share in (TILES_HALF_RATE if half_rate else TILES)
        for high, wide in ((tile_rows, tile_columns), (tile_columns, tile_rows))
    )


# --- tiles and waves ------------------------------------------------------------------------------------


def tiles_us(spec: GpuSpec, batch: int, rows: int, columns: int, depth: int, kind: str) -> float:
    """The time of the arithmetic: the output is cut into tiles, a wave of tiles runs at once, one a
    processor; a partly filled wave takes as long as a full one. Few tiles may be split along the depth."""
    rate = spec.sustained(kind) / 1e6 / spec.processors
    best = math.inf
    for tile_rows, tile_columns, share in TILES_HALF_RATE if spec.half_rate else TILES:
        for high, wide in {(tile_rows, tile_columns), (tile_columns, tile_rows)}:
            tiles = batch * math.ceil(rows / high) * math.ceil(columns / wide)
            for split in (1, 2, 4, 8):
                if split > 1 and tiles * split > 2 * spec.processors:
                    break
                waves = math.ceil(tiles * split / spec.processors)
                us = waves * 2.0 * high * wide * (math.ceil(depth / split) + PROLOGUE) / (rate * share)
                if split > 1:
                    us += split * batch * rows * columns * 8 / (spec.bytes_per_us * MEMORY_SHARE)
                best = min(best, us)
    return best
