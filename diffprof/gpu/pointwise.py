"""Eager kernels that compute element by element, copy, or normalize: bound by bytes, or by elements a clock.

What carries over between GPUs: kernels that broadcast, cast, copy with strides or normalize are limited by
work a processor and clock, not by bandwidth. An A100 has 19 GB/s a processor, an RTX 4090 8.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from .memory import STREAM, bytes_per_us, floor_us
from .pricing import Origin, Time

if TYPE_CHECKING:
    from .specs import GpuSpec


class Operand(Protocol):
    """Geometry of a tensor."""

    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def stride(self) -> Sequence[int]: ...
    @property
    def numel(self) -> int: ...
    @property
    def dtype(self) -> object: ...


class Addressing(enum.Enum):
    """How a kernel finds its elements; the value is how many it passes at most, a clock and processor.

    From traces of an H100 in AMD-AGI/TraceLens (bfloat16, 0.2 to 50 M elements), unless said otherwise.
    """

    CONTIGUOUS = 2.9
    """One type, one run of memory (`vectorized_elementwise_kernel`): 2.66 to 3.05; an A100's gelu 2.24."""
    BROADCAST = 1.53
    """Broadcast, or strided with the same inner dimension (`elementwise_kernel<128, 4>`), on 2 bytes: 40
    kernels."""
    BROADCAST_WIDE = 1.29
    """The same on 4 bytes (`elementwise_kernel<128, 2>`)."""
    BROADCAST_MIXED = 1.01
    """The same with several types."""
    CAST_UP = 1.39
    """From 2 to 4 bytes (`unrolled_elementwise_kernel`); an A100 1.21 [pytorch/pytorch PR 195542]."""
    TRANSPOSED = 0.53
    """Operands with other orders of dimensions: 0.5 to 1.6."""
    CONCATENATED = 1.60
    REDUCED = 4.0
    """Reductions (`reduce_kernel`), by elements read: 3.5 to 4.5."""
    LAYOUT = 2.16
    """cuDNN's conversions between NCHW and NHWC, both ways."""
    ROW_NORM = 1.45
    """Layer norm and RMS norm in one kernel: H100 1.39, A100 1.56 [allenai/OLMo issue 258]."""
    SOFTMAX = 1.35
    """[FIT] to the ladders of `diffprof/tuning/ladder/published.toml`: their rungs without SDPA."""


def streaming(spec: GpuSpec, moved: float, elements: float, addressing: Addressing) -> Time:
    """The time of a kernel that moves so many bytes and passes so many elements."""
    floor = floor_us(spec, moved)
    memory = moved / bytes_per_us(spec, moved)
    rate = spec.rates.get(addressing.name)
    passing = elements / ((rate or addressing.value) * spec.cycles_per_us)
    origin = Origin.MODELLED if rate is None else spec.measured
    return Time(max(memory, passing, floor) + spec.ramp_us, floor, origin, False)


REDUCTION_START_US = (4.0, 2.1)
"""What a reduction of next to nothing takes longer than other kernels, across rows and along them: on an H100
8 rows take 5.4 us, one row of 768 3.1 to 3.2 [traces in AMD-AGI/TraceLens]."""

LOAD_US = (0.27, 0.22)
"""Time of one round of loads of a thread that sums, one after another, across rows and along them: 384 rows
take 11.2 to 11.8 us whether they are 1,024 or 8,192 wide, 192 rows 8.2 to 9.4; along rows 1,536 and 4,096
elements take 6.2 and 10.1 [the same traces]."""

LOADS_AT_ONCE = 4
"""Of a thread (`vt0` in aten/src/ATen/native/cuda/Reduce.cuh)."""

SUMMING = (4, 32)
"""Threads that sum one result: across rows the warps of a block, along them the lanes of a warp, or of
several where a block has fewer than 16 results (the same file, `setReduceConfig`)."""

MOST_ROUNDS = 64
"""Then several blocks sum one result (the same, `max_values_per_thread`)."""


def reduced(spec: GpuSpec, moved: float, elements: int, results: int, along_rows: bool) -> Time:
    """The time to sum elements into so many results; along_rows: over the innermost dimension."""
    time = streaming(spec, moved, elements, Addressing.REDUCED)
    results = max(results, 1)
    threads = SUMMING[along_rows] * (max(1, 16 // results) if along_rows else 1)
    rounds = math.ceil(elements / results / (threads * LOADS_AT_ONCE))
    waiting = REDUCTION_START_US[along_rows] + LOAD_US[along_rows] * min(rounds, MOST_ROUNDS)
    return time._replace(us=max(time.us, waiting))


def filled(spec: GpuSpec, moved: float) -> Time:
    """The time to set memory: an H100 writes 3,170 GB/s."""
    return Time(moved / bytes_per_us(spec, moved, 0.95), floor_us(spec, moved), Origin.MODELLED, False)


# --- addressing -----------------------------------------------------------------------------------------


def of_pointwise(operands: Iterable[Operand], out: Operand) -> Addressing:
    """How a pointwise kernel addresses its operands (those on the device)."""
    tensors = [t for t in operands if t.numel > 1] + [out]
    types = {t.dtype for t in tensors}
    if all(_alike(t, out) for t in tensors):
        return Addressing.CONTIGUOUS if len(types) == 1 else _cast(tensors, out)
    whole = [t for t in tensors if t.numel == out.numel]
    if any(innermost(t) != innermost(out) for t in whole):
        return Addressing.TRANSPOSED
    if len(types) > 1:
        return Addressing.BROADCAST_MIXED
    return Addressing.BROADCAST if _width(tensors) < 4 else Addressing.BROADCAST_WIDE


def of_copy(source: Operand, target: Operand) -> Addressing:
    """How a copy addresses its two tensors."""
    if innermost(source) != innermost(target):
        return Addressing.TRANSPOSED
    if not _alike(source, target):
        return Addressing.BROADCAST if _width((source, target)) < 4 else Addressing.BROADCAST_WIDE
    return Addressing.CONTIGUOUS if source.dtype == target.dtype else _cast((source,), target)


def _cast(sources: Iterable[Operand], target: Operand) -> Addressing:
    """Casts to fewer bytes load as contiguous kernels do."""
    return (
        Addressing.CAST_UP
        if any(_size(t) < _width((*sources, target)) for t in sources)
        else Addressing.CONTIGUOUS
    )


def _alike(one: Operand, other: Operand) -> bool:
    """Whether two tensors lie in memory alike, dimensions of one element aside."""
    if tuple(one.shape) != tuple(other.shape):
        return False
    return all(
        size == 1 or mine == theirs
        for size, mine, theirs in zip(one.shape, one.stride, other.stride, strict=True)
    )


def innermost(tensor: Operand) -> int | None:
    """The dimension, counted from the last, whose elements lie closest; None for a single element."""
    steps = [
        (step, -place)
        for place, (size, step) in enumerate(zip(tensor.shape, tensor.stride, strict=True))
        if size > 1 and step
    ]
    if not steps:
        return None
    return -min(steps)[1] - len(tensor.shape)


def _size(tensor: Operand) -> int:
    return int(tensor.dtype.itemsize)  # type: ignore[attr-defined]


def _width(tensors: Iterable[Operand]) -> int:
    return max(map(_size, tensors))


# --- norms ----------------------------------------------------------------------------------------------

MOMENTS = 0.55
"""Elements a clock of one block of `RowwiseMoments`: 0.49 to 0.58 on an A100 and an H100 [pytorch/pytorch
PRs 183946 and 182907, if their channels are in 6 groups], 0.54 [PR 140440]."""

MOMENTS_THREADS = 512

GROUP_STATISTICS = 0.80
"""Elements a clock and processor of the statistics of whole groups in kernels that Inductor generates
[pytorch/pytorch PR 182907: 456 us for 61 M elements, of which 137 us are bytes]."""


def moments(spec: GpuSpec, elements: int, groups: int, moved: float) -> Time:
    """Statistics of a group norm: one block a group."""
    at_once = spec.processors * (spec.threads // MOMENTS_THREADS)
    passing = math.ceil(groups / at_once) * (elements / groups) / (MOMENTS * spec.clock_ghz * 1e3)
    floor = floor_us(spec, moved)
    return Time(max(passing, moved / (spec.bytes_per_us * STREAM), floor), floor, Origin.MODELLED, False)


def statistics_us(spec: GpuSpec, elements: float) -> float:
    """What generated kernels take for the statistics of whole groups, beside the bytes."""
    return elements / (GROUP_STATISTICS * spec.cycles_per_us)
