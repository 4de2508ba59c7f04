"""What one device operation costs on a GPU: its kernels, and the time of each.

This module says which kernels an operation launches; what each takes is in `diffprof.gpu`, a module a kind.
Operations come from PyTorch's FLOP formulas (torch.utils.flop_counter), bytes from shapes, strides and
types.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils import flop_counter

from .attention import Backend, Shape, attention, sdpa_backend, takes
from .convolution import Geometry, convolution
from .families import CASTS, COLLECTIVES, GATHER, SCATTER, SOFTMAX, base_name, family_of
from .hosts import HostSheet, chosen_host
from .matmul import matmul, row_major_us, tiny_us, weight_only
from .memory import bytes_per_us, floor_us
from .mode import Mode, current_mode
from .nccl import collective_us
from .operands import (
    convolves_channels_last,
    describe,
    dtype_name,
    is_dense,
    matmul_sizes,
    precision,
    touched,
)
from .pointwise import (
    Addressing,
    filled,
    moments,
    of_copy,
    of_pointwise,
    reduced,
    statistics_us,
    streaming,
)
from .pricing import Origin, Time
from .quantized import FEW_ROWS, LinearScheme, Pass, moved_by, quantizing_passes
from .specs import GpuSpec

if TYPE_CHECKING:
    from .signatures import OpSignature, TensorMeta

FIXED_US = 2.5
"""Start, ramp and end of a kernel, and the gap to the next one: gaps between queued kernels have a median
of 2 us in the A100 traces of facebookresearch/HolisticTraceAnalysis."""

GRAPH_FIXED_US = 2.0
"""The same inside a CUDA graph, where nothing has to be fetched between kernels
[developer.nvidia.com/blog/constant-time-launch-for-straight-line-cuda-graphs]."""

TABLED_FIXED_US = 1.0
"""The same for times from a table, which hold the start and the gap inside a graph."""

GENERATED = 0.80
"""Share of the bandwidth that kernels reach which Inductor generates. [FIT] to the ladders of
`diffprof/tuning/ladder/published.toml`."""


PAGEABLE = 2.0
"""Time of a copy from or to pageable memory, which goes through a staging buffer, against the link's
[docs.nvidia.com/cuda/cuda-c-best-practices-guide, pinned memory]."""

HOST_INT_NS = (1.0, 0.13)
"""Nanoseconds for each weight of an integer product on the CPU, which no BLAS does, and for each row and
weight: 1 to 16 rows by 9,216x3,072 int32 weights take 31.2, 32.8, 45.4, 59.2 and 86.3 ms on one core of a
server (torch 2.13)."""

ATTENTION_GRADIENTS = 2.5
"""Work of attention's backward pass against the forward: five products for two [arXiv:2307.08691, 4.1]."""


class Kernel(NamedTuple):
    """One launch. Times in microseconds. bound: compute, memory or fixed. host_us: what the CPU computes
    before it. read: the CPU waits for it."""

    name: str
    family: str
    device_us: float
    lower_bound_us: float
    bound: str
    flops: float
    bytes: float
    dtype: str
    shape: str
    origin: str = Origin.MODELLED
    host_us: float = 0.0
    read: bool = False


class CostModel:
    """Costs of operations on one GPU, run one way, issued by one host. Results are remembered with the GPU's
    sheet, by all that they depend on."""

    def __init__(self, spec: GpuSpec, mode: Mode | None = None, host: HostSheet | None = None) -> None:
        self.spec = spec
        self.mode = mode if mode is not None else current_mode()
        self.host = host if host is not None else chosen_host()
        self._seen: dict[tuple[OpSignature, bool, bool, bool], tuple[Kernel, ...]] = {}

    def kernels(
        self,
        signature: OpSignature,
        *,
        compiled: bool = False,
        quantized: bool = False,
        pinned: bool = False,
    ) -> tuple[Kernel, ...]:
        """The kernels that an op launches, in order.

        compiled: as part of a compiled graph. quantized: a linear under the mode's scheme. pinned: a copy
        from or to page-locked memory.
        """
        key = (signature, compiled, quantized, pinned)
        found = self._seen.get(key)
        if found is None:
            shared = (*key, *self._asked_of_mode(signature, compiled, quantized))
            found = self.spec.prices.get(shared)
            if found is None:
                if signature.direction in ("h2d", "d2h"):
                    found = (self._transfer(signature, pinned),)
                else:
                    found = tuple(self._kernels(signature, compiled, quantized))
                self.spec.prices[shared] = found
            self._seen[key] = found
        return found

    def in_mode(self, mode: Mode) -> CostModel:
        """The same GPU and host with operations run another way."""
        return self if mode == self.mode else CostModel(self.spec, mode, self.host)

    def _asked_of_mode(self, signature: OpSignature, compiled: bool, quantized: bool) -> Iterable[Any]:
        """What the costs of an operation take from the mode."""
        mode, family = self.mode, family_of(base_name(signature))
        yield compiled and mode.graphs
        yield (mode.scheme, None if compiled else self.host) if quantized else None
        if family in ("gemm", "conv"):
            yield from (mode.matmul_tf32, mode.conv_tf32)
        if family == "attention":
            yield from (mode.attention, mode.cudnn_first)

    def workspace(self, signature: OpSignature) -> int:
        """Bytes that an op holds while it runs, beside its inputs. Its result is counted with them: an op is
        told before its result comes to be."""
        if self.mode.compiled or family_of(base_name(signature)) != "conv":
            return 0
        x, weight, out = *signature.inputs[:2], signature.outputs[0]
        last = convolves_channels_last(x, weight)
        # `contiguous(memory_format)` of what is not in order (aten/src/ATen/native/Convolution.cpp).
        held = out.nbytes + sum(m.nbytes for m in (x, weight) if not is_dense(m, channels_last=last))
        if last or len(x.shape) < 4 or precision(x.dtype, self.mode.conv_tf32) == "fp32":
            return held
        # cuDNN's tensor-core kernels work on NHWC: its copies of input and result lie in a workspace.
        return held + x.nbytes + out.nbytes

    def fixed_us(self, compiled: bool, origin: Origin = Origin.MODELLED) -> float:
        """Start and gap of a kernel."""
        graph = compiled and self.mode.graphs
        if origin is not Origin.MODELLED:
            return 0.0 if graph else TABLED_FIXED_US
        return GRAPH_FIXED_US if graph else FIXED_US

    def generated_us(self, moved: float) -> float:
        """Time that a kernel which Inductor generates takes to move bytes, without its start."""
        return moved / bytes_per_us(self.spec, moved, GENERATED)

    # --- families -------------------------------------------------------------------------------------

    def _kernels(self, s: OpSignature, compiled: bool, quantized: bool) -> Iterable[Kernel]:
        base = base_name(s)
        family = family_of(base)
        if base in COLLECTIVES:
            return (self._collective(s, base, compiled),)
        if family == "gemm":
            return self._matmul(s, base, compiled, quantized)
        if family == "conv":
            return self._convolution(s, base, compiled)
        if family == "attention":
            return self._attention(s, compiled)
        if family == "norm":
            return self._normalization(s, base, compiled)
        if base in SOFTMAX:
            return (self._softmax(s, base, compiled),)
        return self._elementwise(s, base, family, compiled)

    def _kernel(
        self,
        s: OpSignature,
        name: str,
        family: str,
        time: Time,
        *,
        moved: float,
        compiled: bool,
        flops: float = 0.0,
        dtype: str | None = None,
    ) -> Kernel:
        fixed = self.fixed_us(compiled, time.origin)
        bound = "fixed" if time.us < fixed else "compute" if time.compute else "memory"
        first = s.inputs[0] if s.inputs else s.outputs[0]
        return Kernel(
            name=name,
            family=family,
            device_us=time.us + fixed,
            lower_bound_us=time.floor,
            bound=bound,
            flops=flops,
            bytes=float(moved),
            dtype=dtype or dtype_name(first.dtype),
            shape=describe(s),
            origin=time.origin,
        )

    def _generated(self, moved: float) -> Time:
        return Time(self.generated_us(moved), floor_us(self.spec, moved), Origin.MODELLED, False)

    # --- element by element ---------------------------------------------------------------------------

    def _elementwise(self, s: OpSignature, base: str, family: str, compiled: bool) -> Iterator[Kernel]:
        tensors = s.outputs or s.inputs
        moved = float(_moved(s, base, family))
        elements = max(m.numel for m in (*tensors, *(s.inputs if family == "reduction" else ())))
        if compiled:
            time = self._generated(moved)
        elif family == "memset":
            time = filled(self.spec, moved)
        elif family == "reduction" and s.inputs:
            time = reduced(self.spec, moved, elements, tensors[0].numel, _along_rows(s))
        else:
            time = streaming(self.spec, moved, elements, _addressing(s, base, family))
        name = _copy_name(s, base) if family == "copy" else base
        flops = float(elements) if family in ("pointwise", "reduction") else 0.0
        yield self._kernel(s, name, family, time, moved=moved, compiled=compiled, flops=flops)

    def _transfer(self, s: OpSignature, pinned: bool) -> Kernel:
        moved = s.nbytes or sum(m.nbytes for m in s.outputs)
        ideal = moved / self.spec.link_bytes_per_us
        host = "Pinned" if pinned else "Pageable"
        name = (
            f"Memcpy HtoD ({host} -> Device)" if s.direction == "h2d" else f"Memcpy DtoH (Device -> {host})"
        )
        time = Time(ideal if pinned else PAGEABLE * ideal, ideal, Origin.MODELLED, False)
        return self._kernel(s, name, "copy", time, moved=moved, compiled=False)

    def _collective(self, s: OpSignature, base: str, compiled: bool) -> Kernel:
        moved = float(s.outputs[0].nbytes)
        us, origin = collective_us(self.spec, base, s.scalars["gpus"], moved)
        return self._kernel(s, base, "copy", Time(us, us, origin, False), moved=moved, compiled=compiled)

    def _layout(
        self, s: OpSignature, name: str, size: float, addressing: Addressing = Addressing.LAYOUT
    ) -> Kernel:
        """A copy of a tensor of so many bytes into another order."""
        time = streaming(self.spec, 2.0 * size, size / s.inputs[0].dtype.itemsize, addressing)
        return self._kernel(s, name, "copy", time, moved=2.0 * size, compiled=False)

    def _broadcast(self, s: OpSignature, name: str, size: float) -> Kernel:
        """A kernel that reads and writes a tensor of so many bytes, with a value a channel."""
        width = s.inputs[0].dtype.itemsize
        addressing = Addressing.BROADCAST if width < 4 else Addressing.BROADCAST_WIDE
        time = streaming(self.spec, 2.0 * size, size / width, addressing)
        return self._kernel(s, name, "pointwise", time, moved=2.0 * size, compiled=False)

    # --- products -------------------------------------------------------------------------------------

    def _matmul(self, s: OpSignature, base: str, compiled: bool, quantized: bool) -> Iterator[Kernel]:
        batch, rows, columns, depth = matmul_sizes(s, base)
        x = s.inputs[1] if base in ("addmm", "baddbmm", "addbmm") else s.inputs[0]
        scheme = self.mode.scheme if quantized else None
        kind = precision(x.dtype, self.mode.matmul_tf32)
        if scheme is None:
            yield self._product(s, base, (batch, rows, columns, depth), kind, x, compiled)
            return
        if compiled:
            yield from self._quantizing(s, scheme, rows * batch * depth, x.dtype.itemsize)
        else:
            passes = scheme.eager
            yield from self._passes(s, "dequantize_weight", passes.weight, columns * depth)
            yield from self._passes(s, "quantize_activation", passes.activation, rows * batch * depth)
            yield from passes.small * (self._small(s),)
            yield from passes.reads * (self._read(s, 1.0),)
        if scheme.kind is None and (compiled or not scheme.eager.weight):
            yield self._narrow_product(s, base, (batch * rows, columns, depth), kind, scheme, compiled)
        elif scheme.row_major and not compiled:
            yield from self._row_major(s, base, (batch * rows, columns, depth), scheme)
        else:
            yield self._product(s, base, (batch, rows, columns, depth), scheme.kind or kind, x, compiled)
        if not compiled:
            yield from self._passes(s, "scale_result", scheme.eager.result, rows * batch * columns)

    def _narrow_product(
        self,
        s: OpSignature,
        name: str,
        sizes: tuple[int, int, int],
        kind: str,
        scheme: LinearScheme,
        compiled: bool,
    ) -> Kernel:
        """A product that widens its weight as it loads it."""
        rows, columns, depth = sizes
        width = s.inputs[0].dtype.itemsize
        time = weight_only(self.spec, *sizes, kind, width, scheme.bits)
        if scheme.tiny:
            us = tiny_us(self.spec, *sizes, width, scheme.bits)
            time = time._replace(us=max(time.us, us), origin=Origin.MODELLED)
        moved = rows * (depth + columns) * width + depth * columns * scheme.bits / 8
        flops = 2.0 * rows * columns * depth
        return self._kernel(s, name, "gemm", time, flops=flops, moved=moved, compiled=compiled)

    def _row_major(
        self, s: OpSignature, name: str, sizes: tuple[int, int, int], scheme: LinearScheme
    ) -> Iterator[Kernel]:
        """The weight put in row-major order, and the product that takes it (`safe_int_mm` in
        torchao/kernel/intmm.py)."""
        rows, columns, depth = sizes
        weight = depth * columns
        flops = 2.0 * rows * weight
        if rows <= FEW_ROWS and scheme.few_rows_on_host:
            yield self._read(s, float(weight))
            yield self._small(s)._replace(host_us=weight * (HOST_INT_NS[0] + HOST_INT_NS[1] * rows) / 1e3)
            return
        if rows <= FEW_ROWS:
            yield from self._passes(s, "widen_weight", (Pass(1, 4, Addressing.CAST_UP),), weight)
            kind = precision(torch.float32, self.mode.matmul_tf32)
            product = self._product(s, name, (1, rows, columns, depth), kind, s.inputs[0], False)
            time = matmul(self.spec, 1, *sizes, kind, 4)
            yield product._replace(device_us=time.us + self.fixed_us(False, time.origin), dtype=kind)
            return
        yield from self._passes(s, "contiguous", (Pass(1, 1, Addressing.TRANSPOSED),), weight)
        time = matmul(self.spec, 1, *sizes, str(scheme.kind), 1)
        us = max(time.us, row_major_us(self.spec, *sizes))
        yield self._kernel(
            s, name, "gemm", time._replace(us=us, origin=Origin.MODELLED), flops=flops,
            moved=float(rows * depth + weight + 4 * rows * columns), compiled=False, dtype=scheme.kind,
        )  # fmt: skip

    def _passes(self, s: OpSignature, name: str, passes: Sequence[Pass], elements: int) -> Iterator[Kernel]:
        """Kernels of their own over a tensor of so many elements; what they take is modelled."""
        for each in passes:
            moved = moved_by(each, elements, s.inputs[0].dtype.itemsize)
            time = streaming(self.spec, moved, elements, each.addressing)
            time = time._replace(origin=Origin.MODELLED)
            family = "copy" if each.addressing is Addressing.TRANSPOSED else "pointwise"
            kernel = self._kernel(s, name, family, time, moved=moved, compiled=False, flops=float(elements))
            yield kernel._replace(host_us=self.host.op_us)

    def _small(self, s: OpSignature) -> Kernel:
        """A kernel over next to nothing."""
        kernel = self._kernel(s, "scales", "pointwise", self._generated(0.0), moved=0.0, compiled=False)
        return kernel._replace(host_us=self.host.op_us)

    def _read(self, s: OpSignature, moved: float) -> Kernel:
        """A copy to pageable memory that the CPU waits for."""
        ideal = moved / self.spec.link_bytes_per_us
        time = Time(PAGEABLE * ideal, ideal, Origin.MODELLED, False)
        name = "Memcpy DtoH (Device -> Pageable)"
        kernel = self._kernel(s, name, "copy", time, moved=moved, compiled=False)
        return kernel._replace(host_us=self.host.op_us, read=True)

    def _quantizing(
        self, s: OpSignature, scheme: LinearScheme, elements: int, width: int
    ) -> Iterator[Kernel]:
        """The activation is read for its scales and written in fewer bits; the result is scaled inside the
        product."""
        for moved in quantizing_passes(scheme, elements, width):
            yield self._kernel(
                s, "quantize_activation", "pointwise", self._generated(moved), moved=moved, compiled=True,
                flops=float(elements),
            )  # fmt: skip

    def _product(
        self,
        s: OpSignature,
        name: str,
        sizes: tuple[int, int, int, int],
        kind: str,
        x: TensorMeta,
        compiled: bool,
    ) -> Kernel:
        batch, rows, columns, depth = sizes
        narrow = kind in ("int8", "fp8", "fp4")
        width = 1 if narrow else x.dtype.itemsize
        moved = batch * (rows * depth + depth * columns) * width + batch * rows * columns * x.dtype.itemsize
        return self._kernel(
            s,
            name,
            "gemm",
            matmul(self.spec, batch, rows, columns, depth, kind, width),
            flops=float(flop_counter.bmm_flop((batch, rows, depth), (batch, depth, columns))),
            moved=moved,
            compiled=compiled,
            dtype=kind if narrow or kind == "tf32" else None,
        )

    def _convolution(self, s: OpSignature, base: str, compiled: bool) -> Iterator[Kernel]:
        x, weight, out = s.inputs[0], s.inputs[1], s.outputs[0]
        kind = precision(x.dtype, self.mode.conv_tf32)
        geometry = _geometry(s, base)
        depthwise = geometry.groups > 1 and geometry.depth == geometry.window
        ordered = convolves_channels_last(x, weight) or compiled or len(x.shape) < 4 or depthwise
        if not compiled and convolves_channels_last(x, weight):
            # PyTorch puts what is not in that order into it first (`cudnn_convolution` in
            # aten/src/ATen/native/cudnn/ConvShared.cpp).
            for each in (x, weight):
                if not is_dense(each, channels_last=True):
                    yield self._layout(s, "contiguous", touched(each), Addressing.TRANSPOSED)
        if not ordered:
            # cuDNN's tensor-core kernels work on NHWC: input and filter are converted before, the result
            # after [docs.nvidia.com/deeplearning/performance/dl-performance-convolutional, tensor layouts].
            yield self._layout(s, "nchwToNhwc", touched(x) + touched(weight))
        yield self._kernel(
            s,
            base,
            "conv",
            convolution(self.spec, geometry, kind, x.dtype.itemsize),
            flops=geometry.flops,
            moved=geometry.moved,
            compiled=compiled,
            dtype=kind if kind == "tf32" else None,
        )
        if not ordered:
            yield self._layout(s, "nhwcToNchw", touched(out))
        if len(s.inputs) > 2 and not compiled:
            # PyTorch adds a convolution's bias in a kernel of its own (aten/src/ATen/native/Convolution.cpp).
            yield self._broadcast(s, "add_bias", touched(out))

    # --- attention ------------------------------------------------------------------------------------

    def _attention(self, s: OpSignature, compiled: bool) -> Iterator[Kernel]:
        if s.name.endswith("_backward"):
            forward = replace(s, name=s.name.removesuffix("_backward"), inputs=s.inputs[1:4])
            for kernel in self._attention(forward, compiled):
                yield _gradients_of(kernel)
            return
        q = s.inputs[0]
        shape = attention_shape(s)
        backend = self.backend(s)
        kind = precision(q.dtype, False)
        if backend is Backend.MATH:
            yield from self._unfused(s, shape, kind, compiled)
            return
        mask = sum(touched(m) // m.dtype.itemsize for m in s.inputs[3:4]) * q.dtype.itemsize
        moved = float(sum(map(touched, s.inputs[:3])) + sum(map(touched, s.outputs[:1])) + mask)
        yield from self._mask(s, compiled)
        yield self._kernel(
            s,
            _ATTENTION_NAMES[backend],
            "attention",
            attention(self.spec, backend, shape, kind, q.dtype.itemsize, mask),
            flops=shape.flops,
            moved=moved,
            compiled=compiled,
        )

    def _mask(self, s: OpSignature, compiled: bool) -> Iterator[Kernel]:
        """What makes a mask of truth values one that is added: `logical_not` and `where`
        (`convert_boolean_attn_mask` in aten/src/ATen/native/transformers/attention.cpp)."""
        for mask in s.inputs[3:4]:
            if mask.dtype != torch.bool:
                return
            size, width = touched(mask), s.inputs[0].dtype.itemsize
            passes = {"where": 1 + width} if compiled else {"logical_not": 2, "where": 1 + width}
            for name, bytes_each in passes.items():
                moved = float(bytes_each * size)
                time = streaming(self.spec, moved, size, Addressing.CONTIGUOUS)
                time = self._generated(moved) if compiled else time
                yield self._kernel(s, name, "pointwise", time, moved=moved, compiled=compiled)

    def backend(self, s: OpSignature, chosen: Backend | None = None) -> Backend:
        """The kernel that computes an attention on this GPU. chosen: in place of the mode's."""
        shape, kind = attention_shape(s), attention_type(s)
        wanted = chosen or self.mode.attention
        if wanted is not None and takes(self.spec, wanted, shape, kind):
            return wanted
        allowed = s.scalars.get("sdpa")
        return sdpa_backend(self.spec, shape, kind, cudnn_first=self.mode.cudnn_first, allowed=allowed)

    def _unfused(self, s: OpSignature, shape: Shape, kind: str, compiled: bool) -> Iterator[Kernel]:
        """Two products and a softmax over a matrix of scores."""
        q, v = s.inputs[0], s.inputs[2]
        yield from self._mask(s, compiled)
        yield self._product(s, "bmm", (shape.heads, shape.queries, shape.keys, shape.size), kind, q, compiled)
        scores = shape.heads * shape.queries * shape.keys
        moved = 2.0 * scores * q.dtype.itemsize
        if shape.masked and not compiled:
            yield self._broadcast(s, "add_mask", moved / 2)
        yield self._kernel(
            s, "softmax", "reduction", self._softmax_time(scores, moved), flops=4.0 * scores, moved=moved,
            compiled=compiled,
        )  # fmt: skip
        yield self._product(
            s, "bmm", (shape.heads, shape.queries, shape.value_size, shape.keys), kind, v, compiled
        )

    def _softmax_time(self, elements: int, moved: float) -> Time:
        return streaming(self.spec, moved, elements, Addressing.SOFTMAX)

    def _softmax(self, s: OpSignature, base: str, compiled: bool) -> Kernel:
        moved = float(sum(map(touched, s.inputs)) + sum(map(touched, s.outputs)))
        elements = s.outputs[0].numel
        time = self._softmax_time(elements, moved)
        return self._kernel(s, base, "reduction", time, flops=4.0 * elements, moved=moved, compiled=compiled)

    # --- norms ----------------------------------------------------------------------------------------

    def _normalization(self, s: OpSignature, base: str, compiled: bool) -> Iterator[Kernel]:
        x = s.inputs[0]
        size = float(touched(x))
        if not is_grouped(base):
            # One pass: a row fits a block's registers.
            if compiled:
                time = self._generated(2 * size)
            else:
                if not is_dense(x):
                    yield self._layout(s, "contiguous", size, of_copy(x, s.outputs[0]))
                time = streaming(self.spec, 2 * size, x.numel, Addressing.ROW_NORM)
            yield self._kernel(s, base, "norm", time, moved=2 * size, compiled=compiled)
            return
        if compiled:
            # The statistics of a whole group need a pass of their own.
            time = self._generated(3 * size)
            time = time._replace(us=time.us + statistics_us(self.spec, x.numel))
            yield self._kernel(s, base, "norm", time, moved=3 * size, compiled=True)
            return
        # RowwiseMoments (one block a group), ComputeFusedParams, then a pointwise kernel
        # (aten/src/ATen/native/cuda/group_norm_kernel.cu).
        groups = x.shape[0] * int(s.scalars.get("num_groups", s.scalars.get("group", x.shape[1])) or 1)
        if not is_dense(x):
            # It works on contiguous input (`X.contiguous()` in the same file).
            yield self._layout(s, "contiguous", size, Addressing.TRANSPOSED)
        time = moments(self.spec, x.numel, groups, size)
        yield self._kernel(s, "RowwiseMoments", "norm", time, moved=size, compiled=False)
        yield self._kernel(s, "ComputeFusedParams", "norm", self._generated(0.0), moved=0.0, compiled=False)
        yield self._broadcast(s, base, size)


_ATTENTION_NAMES = {
    Backend.FLASH1: "flash_attention",
    Backend.FLASH2: "flash_attention",
    Backend.FLASH3: "flash_attention_3",
    Backend.CUDNN: "cudnn_attention",
    Backend.EFFICIENT: "efficient_attention",
    Backend.SAGE: "sage_attention",
}


def is_grouped(base: str) -> bool:
    """Whether a norm takes its statistics over more than a row."""
    return "group_norm" in base or "batch_norm" in base or "instance_norm" in base


def _gradients_of(forward: Kernel) -> Kernel:
    more = ATTENTION_GRADIENTS
    return forward._replace(
        name=f"{forward.name}_backward",
        device_us=forward.device_us * more,
        lower_bound_us=forward.lower_bound_us * more,
        flops=forward.flops * more,
        bytes=forward.bytes * more,
    )


def attention_type(s: OpSignature) -> str:
    """Type of an attention's elements, as `diffprof.gpu.attention.takes` wants it."""
    dtype = s.inputs[0].dtype
    return "fp64" if dtype.itemsize > 4 else precision(dtype, False)


def attention_shape(s: OpSignature) -> Shape:
    """Sizes of an attention."""
    q, k, v = s.inputs[:3]
    return Shape(
        heads=math.prod(q.shape[:-2]),
        queries=q.shape[-2],
        keys=k.shape[-2],
        size=q.shape[-1],
        value_size=v.shape[-1],
        causal=bool(s.scalars.get("is_causal")),
        masked=len(s.inputs) > 3,
    )


def _geometry(s: OpSignature, base: str) -> Geometry:
    x, weight, out = s.inputs[0], s.inputs[1], s.outputs[0]
    transposed = bool(s.scalars.get("transposed")) or "transpose" in base
    groups = int(s.scalars.get("groups", 1) or 1)
    flops = float(
        flop_counter.conv_flop_count(list(x.shape), list(weight.shape), list(out.shape), transposed)
    )
    walked = x if transposed else out
    positions = walked.numel // walked.shape[1]
    channels = (weight.shape[1] if transposed else weight.shape[0]) // (1 if transposed else groups)
    return Geometry(
        dims=len(x.shape) - 2,
        groups=groups,
        positions=positions,
        channels=channels,
        depth=max(1, int(flops / (2.0 * positions * channels * groups))),
        window=math.prod(weight.shape[2:]),
        moved=float(touched(x) + touched(weight) + touched(out)),
    )


def _moved(s: OpSignature, base: str, family: str) -> int:
    """Bytes that an elementwise operation reads and writes."""
    written = sum(map(touched, s.outputs))
    if base in GATHER or base in SCATTER or family == "sort":
        # Indices and the picked elements; the table they are picked from is not read whole.
        return 2 * written + sum(touched(m) for m in s.inputs[1:])
    if family == "memset":
        return written
    if family == "copy":
        # A copy reads no more elements than it writes; `copy_` does not read its target.
        read = s.inputs[-1:] if base == "copy_" else s.inputs
        elements = sum(m.numel for m in s.outputs)
        return written + sum(min(touched(m), elements * m.dtype.itemsize) for m in read)
    return sum(map(touched, s.inputs)) + written


def _addressing(s: OpSignature, base: str, family: str) -> Addressing:
    there = [m for m in s.inputs if m.device != "cpu" and m.shape]
    out = (s.outputs or s.inputs)[0]
    if base in ("cat", "stack"):
        return Addressing.CONCATENATED
    if family == "copy" and there and base not in GATHER and base not in SCATTER:
        source = there[-1]
        return of_copy(source, out) if source.numel == out.numel else Addressing.BROADCAST
    if family == "pointwise":
        return of_pointwise(there, out)
    return Addressing.REDUCED if family == "reduction" else Addressing.BROADCAST


def _along_rows(s: OpSignature) -> bool:
    """Whether a reduction sums over the innermost dimension."""
    x, out = s.inputs[0], (s.outputs or s.inputs)[0]
    return out.numel == 1 or out.shape[-1:] != x.shape[-1:]


def _copy_name(s: OpSignature, base: str) -> str:
    """`cast_float32_bfloat16` for a copy that changes the type."""
    source, target = s.inputs[-1] if base == "copy_" else s.inputs[0], s.outputs[0]
    if base in CASTS and source.dtype != target.dtype:
        return f"cast_{dtype_name(source.dtype)}_{dtype_name(target.dtype)}"
    return base
