"""Convolutions: implicit matrix products, or bound by bytes where channels do not mix; and how cuDNN lays
them out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from .matmul import matmul, tiles_us
from .memory import STREAM, bytes_per_us, floor_us
from .pricing import Origin, Time

if TYPE_CHECKING:
    from .specs import GpuSpec

HOPPER_TILES = {
    2: ((64, 128, 0.31), (256, 64, 0.37)),
    3: ((128, 128, 0.70), (128, 64, 0.34)),
}
"""Dimensions -> (positions, channels, share of the peak) of the tiles that cuDNN uses on Hopper, in full
waves: its 2D kernels load so much that the last cache bounds them [traces of an H100 in AMD-AGI/TraceLens:
208 to 271 TFLOPS in 2D at 96 and 192 channels, 281 to 551 in 3D]."""

OF_MATMUL = 0.85
"""Implicit-GEMM convolutions against a matmul of the same size. [FIT] to the ladders of
`diffprof/tuning/ladder/published.toml`."""

OF_MATMUL_VOLTA = 1.0
"""The same on Volta: 12 convolutions of 64 to 512 channels on a V100 [baidu-research/DeepBench], median +1
%, p90 9 %."""

OF_MATMUL_AMD = 0.55
"""The same of MIOpen on an MI300X: traces of one in AMD-AGI/TraceLens."""

FEW_TILES = 0.45
"""Share of a full wave's time that a wave with few tiles takes: they have the last cache for themselves.
Same traces."""

DEPTHWISE = 0.5
"""Share of the bandwidth that depthwise kernels reach, which use no tensor cores. *Inferred*: each input is
read by several threads."""


class Geometry(NamedTuple):
    """A convolution as a product: positions of the result by channels of it, `depth` elements summed for
    each.

    dims: 1, 2 or 3. window: elements of one filter. channels: of the result, in one group. moved: bytes of
    input, weight and result.
    """

    dims: int
    groups: int
    positions: int
    channels: int
    depth: int
    window: int
    moved: float

    @property
    def flops(self) -> float:
        return 2.0 * self.groups * self.positions * self.channels * self.depth


def convolution(spec: GpuSpec, conv: Geometry, kind: str, width: int) -> Time:
    """The time of the convolution's own kernel, its operands laid out as it wants them. width: bytes of one
    element."""
    floor = max(conv.flops / spec.ceiling(kind) * 1e6, floor_us(spec, conv.moved))
    memory = conv.moved / bytes_per_us(spec, conv.moved, STREAM)
    if conv.groups > 1 and conv.depth == conv.window:
        arithmetic = conv.flops / spec.sustained("fp32") * 1e6
        us = max(memory / DEPTHWISE * STREAM, arithmetic, floor)
        return Time(us, floor, Origin.MODELLED, arithmetic > memory)
    if conv.groups == 1 and conv.window == 1:
        product = matmul(spec, 1, conv.positions, conv.channels, conv.depth, kind, width)
        return product._replace(us=max(product.us, floor), floor=floor)
    us = _arithmetic(spec, conv, kind) * (spec.convolution or 1.0)
    origin = Origin.MODELLED if spec.convolution is None else spec.measured
    return Time(max(us, memory, floor), floor, origin, us >= memory)


def _arithmetic(spec: GpuSpec, conv: Geometry, kind: str) -> float:
    if spec.capability == (9, 0) and kind in ("bf16", "fp16"):
        return min(_full_waves(spec, conv, kind, *tile) for tile in HOPPER_TILES[3 if conv.dims == 3 else 2])
    share = OF_MATMUL_VOLTA if spec.capability == (7, 0) else OF_MATMUL
    if spec.vendor == "amd":
        share = OF_MATMUL_AMD
    return tiles_us(spec, conv.groups, conv.positions, conv.channels, conv.depth, kind) / share


def _full_waves(spec: GpuSpec, conv: Geometry, kind: str, high: int, wide: int, share: float) -> float:
    tiles = conv.groups * math.ceil(conv.positions / high) * math.ceil(conv.channels / wide)
    waves = tiles / spec.processors
    wave = 2.0 * high * wide * (conv.depth + 64) / (spec.flops(kind) / 1e6 * share / spec.processors)
    if waves < 1.0:
        return max(FEW_TILES, waves) * wave
    return (math.ceil(waves) if waves < 4 else waves) * wave
