"""Attention: which kernel computes it, and what that takes.

The kernel is chosen as `scaled_dot_product_attention` chooses it
(aten/src/ATen/native/transformers/cuda/sdp_utils.cpp), or as diffusers' attention backend says.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from .calibration import correction
from .memory import bytes_per_us, floor_us
from .pricing import Origin, Time
from .tables import KernelTable, Trend, load_table

if TYPE_CHECKING:
    from .specs import GpuSpec


class Backend(enum.StrEnum):
    """A kernel, or a way, to compute attention."""

    FLASH1 = "flash1"
    """FlashAttention 1: PyTorch's flash kernel before 2.2."""
    FLASH2 = "flash2"
    FLASH3 = "flash3"
    CUDNN = "cudnn"
    EFFICIENT = "efficient"
    MATH = "math"
    """Products and a softmax between them."""
    SAGE = "sage"


class Shape(NamedTuple):
    """Of one call: heads of all sequences together; sizes of a head of queries and keys, and of values."""

    heads: int
    queries: int
    keys: int
    size: int
    value_size: int
    causal: bool = False
    masked: bool = False

    @property
    def flops(self) -> float:
        whole = 2.0 * self.heads * self.queries * self.keys * (self.size + self.value_size)
        return whole / 2 if self.causal else whole

    def moved(self, width: int) -> float:
        """Bytes of queries, keys, values and result."""
        rows = self.queries * (self.size + self.value_size) + self.keys * (self.size + self.value_size)
        return float(self.heads * rows * width)


# --- which kernel ---------------------------------------------------------------------------------------

ORDER = (Backend.FLASH2, Backend.EFFICIENT, Backend.MATH, Backend.CUDNN)
CUDNN_ORDER = (Backend.CUDNN, Backend.FLASH2, Backend.EFFICIENT, Backend.MATH)
"""What `scaled_dot_product_attention` tries, in order: in general, and where cuDNN is preferred."""

LIBRARIES = {
    "native": None,
    "_native_flash": Backend.FLASH2,
    "_native_efficient": Backend.EFFICIENT,
    "_native_cudnn": Backend.CUDNN,
    "_native_math": Backend.MATH,
    "flash": Backend.FLASH2,
    "flash_hub": Backend.FLASH2,
    "_flash_3": Backend.FLASH3,
    "_flash_3_hub": Backend.FLASH3,
    "sage": Backend.SAGE,
    "sage_hub": Backend.SAGE,
    "xformers": Backend.EFFICIENT,
    "flash1": Backend.FLASH1,
}
"""Names of diffusers' attention backends -> the kernel; None leaves it to `scaled_dot_product_attention`. And
the kernel that this took in PyTorch 2.0 and 2.1, for figures of their day."""

SIZES = {Backend.CUDNN: 128, Backend.SAGE: 128}
"""Largest heads; others take 256. cuDNN takes larger ones from 9.22 on."""


def sdpa_backend(
    spec: GpuSpec,
    shape: Shape,
    kind: str,
    *,
    cudnn_first: bool = False,
    allowed: Sequence[str] | None = None,
) -> Backend:
    """What `scaled_dot_product_attention` takes. kind: type of the elements.

    cudnn_first: PyTorch prefers cuDNN's kernel on Hopper and on Blackwell's data center GPUs, as it does with
    cuDNN from 9.15.1 on (`check_prefer_cudnn_attention`): the wheels of 2.11 and later. allowed: what the
    process has switched on, in its order; libraries have to be named there. None: all, in PyTorch's order.
    """
    order = ORDER if allowed is None else tuple(map(Backend, allowed))
    if cudnn_first and spec.capability[0] in (9, 10) and order == tuple(b for b in ORDER if b in order):
        order = tuple(b for b in CUDNN_ORDER if b in order)
    return next((each for each in order if takes(spec, each, shape, kind)), Backend.MATH)


def takes(spec: GpuSpec, backend: Backend, shape: Shape, kind: str) -> bool:
    """Whether a kernel computes such attention on this GPU (`can_use_*_attention`)."""
    if backend is Backend.MATH:
        return True
    if backend is Backend.EFFICIENT:
        return _efficient_takes(spec, shape, kind)
    large = max(shape.size, shape.value_size)
    if kind not in ("fp16", "bf16") or spec.capability < (8, 0) or large > SIZES.get(backend, 256):
        return False
    if backend is Backend.CUDNN:
        return spec.vendor == "nvidia" and shape.keys > 1 and not (shape.size % 8 or shape.value_size % 8)
    if backend is Backend.FLASH3 and spec.capability[0] != 9:
        return False
    square = not shape.causal or shape.queries == shape.keys
    return not shape.masked and shape.size == shape.value_size and square


def _efficient_takes(spec: GpuSpec, shape: Shape, kind: str) -> bool:
    if kind not in ("fp16", "fp32") and (kind != "bf16" or spec.capability < (8, 0)):
        return False
    whole = 8 if kind != "fp32" else 4 if spec.capability >= (8, 0) else 1
    return not (shape.size % whole or shape.value_size % whole)


# --- what it takes --------------------------------------------------------------------------------------

FLASH_OF_MATMUL = 0.95
"""FlashAttention 2 against what large matmuls hold, on Ada and Ampere but for the A100: L40S 0.97, RTX PRO
6000 0.98, RTX 3090 0.92, RTX 4090 0.98."""

FLASH2_BIG_DIES = {64: 0.306, 96: 0.325, 128: 0.354, 256: 0.334}
"""FlashAttention 2 against the peak on Hopper, whose asynchronous instructions it does not use, by padded
head size."""

FLASH2_BLACKWELL = 0.178
"""The same on Blackwell's data center GPUs, whose tensor memory it does not use either: a B200 takes 643 us
for 24 heads of 128 at 4,352 tokens, and 165 with cuDNN's kernel [unslothai/unsloth PR 8021]."""

FLASH1 = {64: 0.625, 128: 0.40}
"""FlashAttention 1 against 2 on data center GPUs, by padded head size [Dao-AILab/flash-attention, assets]."""

FLASH1_HALF_RATE = 0.8
"""The same where tensor cores run at half rate: *inferred* from the memory-efficient kernel."""

EFFICIENT_OF_FLASH2 = {64: 0.62, 128: 0.545, 256: 0.50}
"""The memory-efficient kernel against FlashAttention 2, whose instructions it uses, by padded head size,
where it was not measured: medians of A100, A6000, RTX 3090 and 4090, L40S and H100 (0.46 to 0.78, 0.51 to
0.65 and 0.45 to 0.56), a B200 0.43 at 128."""

EFFICIENT_OF_PEAK = 0.33
"""The same against the peak where there is no FlashAttention 2, and on AMD."""

MASKED = {Backend.EFFICIENT: 0.84, Backend.CUDNN: 0.885}
"""Rate of a kernel with a mask against its own without. The memory-efficient one: 100 passes of HunyuanVideo
1.5 take a B300 98.8 s with a masked text of 1,985 tokens and 30.8 without [vllm-project/vllm-omni PR 3844]:
130 TFLOPS, if its other operations grow with the tokens; a B200 has 155 without a mask. cuDNN's on Hopper:
430.9 of 486.9 TFLOPS with T5's bias [pytorch/pytorch issue 138493]."""

MASKED_BLACKWELL = 0.5
"""The same of cuDNN's kernel on Blackwell's data center GPUs, for a mask of keys: the same passes take 27.0 s
masked and 16.4 without [vllm-project/vllm-omni PR 3079], so 0.49 to 0.53 of 1,400 to 1,600 TFLOPS."""

MASKED_BLACKWELL_DENSE = 0.05
"""The same for a mask with a row for each query: a B200 takes 296 ms for 16 heads of 128 at 50,345 tokens, 15
without [unslothai/unsloth PR 8021]."""

EFFICIENT_ROWS = (64, 32)
"""Queries of a block of the memory-efficient kernel, for heads of up to 64 and for larger ones
(aten/src/ATen/native/transformers/cuda/mem_eff_attention/kernel_forward.h)."""

AMD_ROWS = 128
"""The same of AMD's kernel: one head of 512 takes 1,508 us on an MI300X at 4,500 tokens and 841 us at 2,700
[traces in AMD-AGI/TraceLens], the rate of other shapes where 36 and 22 of its 304 units are at work."""

CUDNN_OF_FLASH3 = 1.0
"""cuDNN's kernels against FlashAttention 3 on Hopper: 631 of 632 TFLOPS at 4,608 tokens of 24 heads of 128
[pytorch/pytorch issue 142132]; 0.95 to 1.05 in arXiv:2407.08608, figure 5."""

FLASH3 = {64: 0.49, 96: 0.55, 128: 0.67, 256: 0.70}
"""FlashAttention 3 against the peak, by padded head size, where no table holds it [flash-attention PR 1791,
thu-ml/SageAttention assets]."""

SAGE_OF_FLASH2 = {(9, 0): 1.15, (8, 9): 2.1, (8, 6): 2.0, (8, 0): 1.35, (12, 0): 2.1}
"""SageAttention 2 against FlashAttention 2 by capability: H200 2,221 against 2,368 us at 8,308 tokens and
8,029 against 9,288 at 16,384 [vllm-omni PR 1923]; the others from the figures of thu-ml/SageAttention."""

TABLED = {Backend.FLASH2: "fa2", Backend.FLASH3: "fa3", Backend.CUDNN: "fa4"}
"""Backend -> table. cuDNN's kernel on Blackwell is built as FlashAttention 4 is."""


def attention(
    spec: GpuSpec, backend: Backend, shape: Shape, kind: str, width: int, mask: float = 0.0
) -> Time:
    """The time of one fused attention; `MATH` is no kernel and has no time of its own. mask: bytes of its
    mask's distinct elements, as it is added.

    Raises ValueError for `MATH`.
    """
    if backend is Backend.MATH:
        raise ValueError("attention without a fused kernel is products and a softmax: price those")
    moved = shape.moved(width) + mask
    floor = max(shape.flops / spec.ceiling(kind) * 1e6, floor_us(spec, moved))
    us, origin = _arithmetic(spec, backend, shape, kind)
    tabled = spec.measured_on is not None and origin is Origin.MEASURED
    share = None if tabled else _measured_share(spec, backend, shape, kind)
    if share is not None:
        us, origin = us * share, spec.measured
    if shape.masked and spec.vendor == "nvidia":
        dense = mask >= float(width * shape.queries * shape.keys)
        us, origin = us / _masked_share(spec, backend, dense), Origin.INFERRED
    memory = moved / bytes_per_us(spec, moved)
    return Time(max(us, memory, floor), floor, origin, us >= memory)


def _masked_share(spec: GpuSpec, backend: Backend, dense: bool) -> float:
    """Rate with a mask against that without; dense: it has a row for each query."""
    if backend is Backend.CUDNN and spec.capability[0] == 10:
        return MASKED_BLACKWELL_DENSE if dense else MASKED_BLACKWELL
    return MASKED.get(backend, 1.0)


def _measured_share(spec: GpuSpec, backend: Backend, shape: Shape, kind: str) -> float | None:
    """Measured over modelled time of as many queries as keys, where this machine's GPU was measured."""
    if spec.calibration is None or kind not in ("fp16", "bf16"):
        return None
    plain = (spec.measured_on or spec).uncalibrated

    def modelled(heads: float, tokens: float, size: float) -> float:
        like = Shape(int(heads), int(tokens), int(tokens), int(size), int(size))
        return attention(plain, backend, like, kind, 2).us

    square = float(max(1, round(math.sqrt(shape.queries * shape.keys))))
    return correction(spec, f"attention.{backend}", (float(shape.heads), square, float(shape.size)), modelled)


def _arithmetic(spec: GpuSpec, backend: Backend, shape: Shape, kind: str) -> tuple[float, Origin]:
    if kind in ("fp32", "tf32"):
        return shape.flops / spec.sustained("fp32") * 1e6, Origin.MODELLED
    if backend is Backend.EFFICIENT:
        return _efficient_us(spec, shape), Origin.MODELLED
    found = _tabled(spec, backend, shape)
    if found is not None:
        return found, Origin.MEASURED
    us = blocks(spec, shape) / (flash_tflops(spec, backend, shape) * 1e6)
    if backend is Backend.CUDNN:
        # Short sequences fill cuDNN's kernel no better than FlashAttention 3.
        us = max(us, _tabled(spec, Backend.FLASH3, shape) or 0.0)
    return us, Origin.MODELLED


def blocks(spec: GpuSpec, shape: Shape) -> float:
    """Operations that the blocks of a flash kernel take: 128 queries a block, a wave of blocks runs at
    once, one a processor; keys go in steps of 64, heads are padded to 32."""
    waves = math.ceil(shape.heads * math.ceil(shape.queries / 128) / spec.processors)
    keys = math.ceil(shape.keys / 64) * 64 + 64
    wide = _padded(shape.size, 32) + _padded(shape.value_size, 32)
    whole = 2.0 * waves * spec.processors * 128 * keys * wide
    return whole / 2 if shape.causal else whole


def flash_tflops(spec: GpuSpec, backend: Backend, shape: Shape) -> float:
    """Rate on padded heads, long sequences, without a mask."""
    size = max(shape.size, shape.value_size)
    if backend in (Backend.FLASH3, Backend.CUDNN):
        share = CUDNN_OF_FLASH3 if backend is Backend.CUDNN else 1.0
        if spec.capability < (9, 0):
            return share * flash_tflops(spec, Backend.FLASH2, shape)
        return share * _by_size(FLASH3, size) * spec.flops("bf16") / 1e12
    rate = _flash2(spec, size)
    if backend is Backend.SAGE:
        return rate * SAGE_OF_FLASH2.get(spec.capability, 1.0)
    if backend is Backend.FLASH1:
        known = _by_size(FLASH1, size) if spec.capability == (8, 0) else FLASH1_HALF_RATE
        # It pads heads to 64 and 128, where the second one pads them to 32.
        return rate * known * _padded(size, 32) / (64 if size <= 64 else _padded(size, 128))
    return rate


def _flash2(spec: GpuSpec, size: int) -> float:
    if spec.flash2:
        return _by_size(spec.flash2, size)
    if spec.sibling is not None and spec.sibling.flash2:
        return _by_size(spec.sibling.flash2, size) * spec.sustained("bf16") / spec.sibling.sustained("bf16")
    if spec.capability == (9, 0):
        full = spec.achievable * FLASH_OF_MATMUL
        return (
            min(_by_size(FLASH2_BIG_DIES, size) * 989.4 / (spec.flops("bf16") / 1e12), full)
            * spec.flops("bf16")
            / 1e12
        )
    if spec.capability == (10, 0):
        return FLASH2_BLACKWELL * spec.flops("bf16") / 1e12
    return FLASH_OF_MATMUL * spec.sustained("fp16") / 1e12


def _efficient_us(spec: GpuSpec, shape: Shape) -> float:
    """The memory-efficient kernel pads heads to 64 and 128; larger ones it takes in pieces. Few blocks leave
    processors idle: those of a picture's own attention in a VAE, which has one head."""
    size = max(shape.size, shape.value_size)
    rate = _by_size(spec.efficient, size) if spec.efficient else _efficient_rate(spec, size)
    padding = 64 / size if size <= 64 else 128 / size if size <= 128 else 1.3 if size < 256 else 1.0
    rows = AMD_ROWS if spec.vendor == "amd" else EFFICIENT_ROWS[size > 64]
    filled = min(1.0, shape.heads * math.ceil(shape.queries / rows) / spec.processors)
    return shape.flops * padding / (rate * 1e6 * filled)


def _efficient_rate(spec: GpuSpec, size: int) -> float:
    if spec.vendor == "nvidia" and spec.capability >= (8, 0):
        return _by_size(EFFICIENT_OF_FLASH2, size) * _flash2(spec, size)
    return EFFICIENT_OF_PEAK * spec.flops("fp16") / 1e12 * min(1.0, spec.achievable / 0.82)


# --- tables ---------------------------------------------------------------------------------------------


def _tabled(spec: GpuSpec, backend: Backend, shape: Shape) -> float | None:
    """The measured time; None where no table holds such attention.

    Tables hold as many queries as keys. Another shape takes the table's time where the work is the same, and
    the part of it that its blocks take grows as they do: what a short call takes beside is no longer. Heads
    of 128 were measured under a causal mask only: what they take without one follows from heads of 64, which
    were measured both ways.
    """
    name = TABLED.get(backend)
    if name is None or spec.tables is None or shape.size != shape.value_size or shape.size > 256:
        return None
    table = load_table(spec.tables, f"attention.{name}")
    if table is None:
        return None
    square = max(1, round(math.sqrt(shape.queries * shape.keys)))
    like = shape._replace(queries=square, keys=square, causal=False)
    us = _square_us(spec, table, name, like)
    if us is None:
        return None
    inside = min(us, blocks(spec, like) / (flash_tflops(spec, backend, like) * 1e6))
    return us + inside * (blocks(spec, shape) / blocks(spec, like) - 1.0)


def _square_us(spec: GpuSpec, table: KernelTable, name: str, shape: Shape) -> float | None:
    measured = int(table.axes[2][-1])
    if shape.size <= measured:
        return _interpolated(spec, table, shape)
    causal = load_table(str(spec.tables), f"attention.causal_{name}")
    if causal is None:
        return None
    small = shape._replace(size=64, value_size=64)
    ratio = _interpolated(spec, causal, shape) / _interpolated(spec, causal, small)
    return _interpolated(spec, table, small) * ratio


def _interpolated(spec: GpuSpec, table: KernelTable, shape: Shape) -> float:
    """The table's time; outside of it the edge's, times the work that is more. A causal table has the same
    blocks."""
    point = (float(shape.heads), float(shape.queries), float(shape.size))
    near = table.nearest(*point)
    us = table.us(*point, trend=block_area(spec), share=TREND_SHARE)
    beyond = point[0] / near[0] * (point[1] / near[1]) ** 2
    return us * max(1.0, beyond)


def block_area(spec: GpuSpec) -> Trend:
    """The part of an attention's time that goes in waves, by heads, tokens and head size."""

    def area(heads: float, tokens: float, size: float) -> float:
        waves = math.ceil(heads * math.ceil(tokens / 128) / spec.processors)
        return waves * (math.ceil(tokens / 64) * 64 + 64) * _padded(math.ceil(size), 32)

    return area


TREND_SHARE = 0.5
"""Power of the waves that attention tables are interpolated over. By leaving points out of them."""


def _padded(size: int, step: int) -> int:
    return math.ceil(size / step) * step


def _by_size(rates: Mapping[int, float], size: int) -> float:
    """The rate of the smallest head size that holds this one, else of the largest."""
    return next((rates[known] for known in sorted(rates) if size <= known), rates[max(rates)])
