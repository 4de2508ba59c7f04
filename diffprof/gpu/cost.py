"""What one device operation costs on a GPU: its kernels, and the time of each.

Time of a kernel = max(operations / (peak * efficiency), bytes / (bandwidth * efficiency)) + a fixed part.
Operations come from PyTorch's FLOP formulas (torch.utils.flop_counter), bytes from shapes, strides and
types. Efficiencies belong to families of kernels; they are the same for every model and every GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from torch.utils import flop_counter

from .efficiency import EFFICIENCY, TILES, Efficiency
from .families import CASTS, GATHER, SCATTER, SOFTMAX, base_name, family_of
from .mode import Mode, current_mode
from .operands import (
    convolves_channels_last,
    describe,
    dtype_name,
    is_channels_last,
    is_dense,
    matmul_sizes,
    precision,
    touched,
)
from .specs import GpuSpec

if TYPE_CHECKING:
    from diffprof.gpu.signatures import OpSignature


class Kernel(NamedTuple):
    """One launch. Times in microseconds. bound: compute, memory or fixed."""

    name: str
    family: str
    device_us: float
    lower_bound_us: float
    bound: str
    flops: float
    bytes: float
    dtype: str
    shape: str


class CostModel:
    """Costs of operations on one GPU, run one way. Results are remembered by signature."""

    def __init__(self, spec: GpuSpec, mode: Mode | None = None, efficiency: Efficiency = EFFICIENCY) -> None:
        self.spec = spec
        self.mode = mode if mode is not None else current_mode()
        self.rates = efficiency
        self._seen: dict[tuple[int, bool, bool, bool], tuple[Kernel, ...]] = {}

    def kernels(
        self,
        signature: OpSignature,
        *,
        compiled: bool = False,
        int8: bool = False,
        pinned: bool = False,
    ) -> tuple[Kernel, ...]:
        """The kernels that an op launches, in order.

        compiled: as part of a compiled graph. pinned: a copy from or to page-locked memory.
        """
        key = (signature.id, compiled, int8, pinned)
        found = self._seen.get(key)
        if found is None:
            if signature.direction in ("h2d", "d2h"):
                found = (self._transfer(signature, pinned),)
            else:
                found = tuple(self._kernels(signature, compiled, int8))
            self._seen[key] = found
        return found

    def workspace(self, signature: OpSignature) -> int:
        """Bytes that an op holds while it runs, beside its inputs; its result is counted with them."""
        if self.mode.compiled or family_of(base_name(signature)) != "conv":
            return 0
        x, out = signature.inputs[0], signature.outputs[0]
        if is_channels_last(x):
            return out.nbytes
        # cuDNN's NHWC copies of input and result live in a workspace from PyTorch's allocator.
        return x.nbytes + 2 * out.nbytes

    # --- families -------------------------------------------------------------------------------------

    def _kernels(self, s: OpSignature, compiled: bool, int8: bool) -> Iterable[Kernel]:
        base = base_name(s)
        family = family_of(base)
        if family == "gemm":
            return self._matmul(s, base, compiled, int8)
        if family == "conv":
            return self._convolution(s, base, compiled)
        if family == "attention":
            return (self._attention(s, base, compiled),)
        if family == "norm":
            return self._normalization(s, base, compiled)
        if base in SOFTMAX:
            return (self._softmax(s, base, compiled),)
        if base in GATHER or base in SCATTER or family == "sort":
            # Indices and the picked elements; the table they are picked from is not read whole.
            moved = 2 * sum(map(touched, s.outputs)) + sum(touched(m) for m in s.inputs[1:])
            return (self._streaming(s, base, family, moved, compiled),)
        if family == "memset":
            return (self._streaming(s, base, family, sum(map(touched, s.outputs)), compiled),)
        if family == "copy":
            moved = sum(map(touched, s.outputs)) + sum(
                min(touched(m), sum(map(touched, s.outputs)) or touched(m)) for m in s.inputs
            )
            return (self._streaming(s, _copy_name(s, base), family, moved, compiled),)
        moved = sum(map(touched, s.inputs)) + sum(map(touched, s.outputs))
        return (self._streaming(s, base, family, moved, compiled),)

    def _fixed(self, compiled: bool) -> float:
        return self.rates.graph_fixed_us if compiled and self.mode.graphs else self.rates.fixed_us

    def _kernel(
        self,
        s: OpSignature,
        name: str,
        family: str,
        *,
        compute_us: float,
        memory_us: float,
        ideal_us: float,
        flops: float,
        moved: float,
        compiled: bool,
        dtype: str | None = None,
    ) -> Kernel:
        fixed = self._fixed(compiled)
        work = max(compute_us, memory_us)
        bound = "fixed" if work < fixed else "compute" if compute_us >= memory_us else "memory"
        first = s.inputs[0] if s.inputs else s.outputs[0]
        return Kernel(
            name=name,
            family=family,
            device_us=work + fixed,
            lower_bound_us=ideal_us,
            bound=bound,
            flops=flops,
            bytes=moved,
            dtype=dtype or dtype_name(first.dtype),
            shape=describe(s),
        )

    def streaming_us(self, moved: float, itemsize: int, compiled: bool) -> float:
        """Time to move bytes through a pointwise kernel, without its fixed part."""
        if compiled:
            share = self.rates.triton
        else:
            share = self.rates.stream if itemsize >= 4 else self.rates.stream_narrow
        return moved / (self.spec.bytes_per_us * share)

    def _streaming(self, s: OpSignature, base: str, family: str, moved: float, compiled: bool) -> Kernel:
        tensors = s.outputs or s.inputs
        width = max(m.dtype.itemsize for m in (*s.inputs[:1], *tensors))
        if family == "copy" and not compiled:
            memory = moved / (self.spec.bytes_per_us * self.rates.copy)
        else:
            memory = self.streaming_us(moved, width, compiled)
        elements = max(m.numel for m in tensors)
        return self._kernel(
            s,
            base,
            family,
            compute_us=0.0,
            memory_us=memory,
            ideal_us=moved / self.spec.bytes_per_us,
            flops=float(elements) if family in ("pointwise", "reduction") else 0.0,
            moved=float(moved),
            compiled=compiled,
        )

    def _transfer(self, s: OpSignature, pinned: bool) -> Kernel:
        moved = s.nbytes or sum(m.nbytes for m in s.outputs)
        ideal = moved / self.spec.link_bytes_per_us
        # Pageable memory goes through a staging buffer: about half of the link's rate
        # [docs.nvidia.com/cuda/cuda-c-best-practices-guide, pinned memory].
        host = "Pinned" if pinned else "Pageable"
        up = s.direction == "h2d"
        return self._kernel(
            s,
            f"Memcpy HtoD ({host} -> Device)" if up else f"Memcpy DtoH (Device -> {host})",
            "copy",
            compute_us=0.0,
            memory_us=ideal if pinned else 2 * ideal,
            ideal_us=ideal,
            flops=0.0,
            moved=float(moved),
            compiled=False,
        )

    def gemm_us(
        self, batch: int, rows: int, columns: int, depth: int, kind: str, itemsize: int
    ) -> tuple[float, float, float]:
        """(compute, memory, ideal) time of batch x (rows, depth) @ (depth, columns).

        The output is cut into tiles, a wave of tiles runs at once, one a processor; a partly filled wave
        takes as long as a full one [NV-MM]. Few tiles may be split along the depth.
        """
        spec, rates = self.spec, self.rates
        peak = spec.flops(kind) / 1e6
        per_processor = peak * spec.achievable / spec.processors
        prologue = rates.prologue_k
        if kind == "int8":
            per_processor *= rates.int8
            prologue = rates.int8_prologue_k
        bandwidth = spec.bytes_per_us * rates.gemm_memory
        best = math.inf
        for high, wide, share in TILES:
            for tile_rows, tile_columns in {(high, wide), (wide, high)}:
                tiles = batch * math.ceil(rows / tile_rows) * math.ceil(columns / tile_columns)
                for split in (1, 2, 4, 8):
                    if split > 1 and tiles * split > 2 * spec.processors:
                        break
                    waves = math.ceil(tiles * split / spec.processors)
                    each = 2.0 * tile_rows * tile_columns * (math.ceil(depth / split) + prologue)
                    us = waves * each / (per_processor * share)
                    if split > 1:
                        us += split * batch * rows * columns * 8 / bandwidth
                    best = min(best, us)
        moved = batch * (rows * depth + depth * columns + rows * columns) * itemsize
        ideal = max(2.0 * batch * rows * columns * depth / peak, moved / spec.bytes_per_us)
        return best, moved / bandwidth, ideal

    def _matmul(self, s: OpSignature, base: str, compiled: bool, int8: bool) -> Iterable[Kernel]:
        batch, rows, columns, depth = matmul_sizes(s, base)
        x = s.inputs[1] if base in ("addmm", "baddbmm", "addbmm") else s.inputs[0]
        kind = "int8" if int8 else precision(x.dtype, self.mode.matmul_tf32)
        width = 1 if int8 else x.dtype.itemsize
        compute, memory, ideal = self.gemm_us(batch, rows, columns, depth, kind, width)
        moved = batch * (rows * depth + depth * columns) * width + batch * rows * columns * x.dtype.itemsize
        if int8:
            # The activation is read once for its scales and written as INT8; the integer result is
            # scaled inside the matmul (`force_fuse_int_mm_with_mul`).
            read = batch * rows * depth
            yield self._kernel(
                s,
                "quantize_activation",
                "pointwise",
                compute_us=0.0,
                memory_us=self.streaming_us(read * (x.dtype.itemsize + 1), x.dtype.itemsize, True),
                ideal_us=read * (x.dtype.itemsize + 1) / self.spec.bytes_per_us,
                flops=float(read),
                moved=float(read * (x.dtype.itemsize + 1)),
                compiled=compiled,
            )
        yield self._kernel(
            s,
            base,
            "gemm",
            compute_us=compute,
            memory_us=memory,
            ideal_us=ideal,
            flops=float(flop_counter.bmm_flop((batch, rows, depth), (batch, depth, columns))),
            moved=float(moved),
            compiled=compiled,
            dtype=kind if kind in ("tf32", "int8") else None,
        )

    def _convolution(self, s: OpSignature, base: str, compiled: bool) -> Iterable[Kernel]:
        x, weight = s.inputs[0], s.inputs[1]
        out = s.outputs[0]
        transposed = bool(s.scalars.get("transposed")) or "transpose" in base
        groups = int(s.scalars.get("groups", 1) or 1)
        flops = float(
            flop_counter.conv_flop_count(list(x.shape), list(weight.shape), list(out.shape), transposed)
        )
        kind = precision(x.dtype, self.mode.conv_tf32)
        positions = (x if transposed else out).numel // (x if transposed else out).shape[1]
        channels = (weight.shape[1] if transposed else weight.shape[0]) // (1 if transposed else groups)
        depth = max(1, int(flops / (2.0 * positions * channels * groups)))
        compute, _, _ = self.gemm_us(groups, positions, channels, depth, kind, x.dtype.itemsize)
        moved = float(touched(x) + touched(weight) + touched(out))
        ordered = convolves_channels_last(x, weight)
        if ordered and not compiled:
            # PyTorch puts what is not in that order into it first (`cudnn_convolution` in
            # aten/src/ATen/native/cudnn/ConvShared.cpp).
            for each in (x, weight):
                if not is_dense(each, channels_last=True):
                    yield self._layout(s, "contiguous", touched(each))
        ordered = ordered or compiled
        if not ordered:
            # cuDNN's tensor-core kernels work on NHWC: input and filter are converted before, the result
            # after [docs.nvidia.com/deeplearning/performance/dl-performance-convolutional, tensor layouts].
            yield self._layout(s, "nchwToNhwc", touched(x) + touched(weight))
        yield self._kernel(
            s,
            base,
            "conv",
            compute_us=compute / self.rates.conv,
            memory_us=moved / (self.spec.bytes_per_us * self.rates.gemm_memory),
            ideal_us=max(flops / self.spec.flops(kind) * 1e6, moved / self.spec.bytes_per_us),
            flops=flops,
            moved=moved,
            compiled=compiled,
            dtype=kind if kind == "tf32" else None,
        )
        if not ordered:
            yield self._layout(s, "nhwcToNchw", touched(out))
        if len(s.inputs) > 2 and not compiled:
            # PyTorch adds a convolution's bias in a kernel of its own (aten/src/ATen/native/Convolution.cpp).
            yield self._pointwise(s, "add_bias", 2 * touched(out), out.dtype.itemsize)

    def _layout(self, s: OpSignature, name: str, size: float) -> Kernel:
        moved = 2.0 * size
        itemsize = s.inputs[0].dtype.itemsize
        return self._kernel(
            s,
            name,
            "copy",
            compute_us=0.0,
            memory_us=moved / (self.spec.bytes_per_us * self.rates.layout * min(1.0, itemsize / 4)),
            ideal_us=moved / self.spec.bytes_per_us,
            flops=0.0,
            moved=moved,
            compiled=False,
        )

    def _pointwise(self, s: OpSignature, name: str, moved: float, itemsize: int) -> Kernel:
        return self._kernel(
            s,
            name,
            "pointwise",
            compute_us=0.0,
            memory_us=self.streaming_us(moved, itemsize, False),
            ideal_us=moved / self.spec.bytes_per_us,
            flops=0.0,
            moved=float(moved),
            compiled=False,
        )

    def _attention(self, s: OpSignature, base: str, compiled: bool) -> Kernel:
        q, k, v = s.inputs[0], s.inputs[1], s.inputs[2]
        heads = math.prod(q.shape[:-2])
        queries, size = q.shape[-2], q.shape[-1]
        keys, value_size = k.shape[-2], v.shape[-1]
        flops = 2.0 * heads * queries * keys * (size + value_size)
        if s.scalars.get("is_causal"):
            flops /= 2
        moved = float(sum(map(touched, (q, k, v))) + sum(map(touched, s.outputs[:1])))
        kind = precision(q.dtype, False)
        peak = self.spec.flops(kind) / 1e6
        flash = q.dtype.itemsize == 2 and self.spec.capability >= (8, 0) and max(size, value_size) <= 256
        if flash:
            # 128 queries a block, two blocks a processor, keys in steps of 128, heads padded to 32.
            blocks = heads * math.ceil(queries / 128)
            slots = 2 * self.spec.processors
            padded = math.ceil(blocks / slots) * slots * 128.0
            depth = math.ceil(keys / 128) * 128 + 64
            wide = math.ceil(size / 32) * 32 + math.ceil(value_size / 32) * 32
            compute = 2.0 * padded * depth * wide / (peak * self.spec.achievable * self.rates.attention)
            if s.scalars.get("is_causal"):
                compute /= 2
            name = "flash_attention"
        elif q.dtype.itemsize == 2:
            compute = flops / (peak * self.rates.attention_large_head)
            name = "efficient_attention"
        else:
            compute = flops / (peak * self.rates.attention_fp32)
            name = "efficient_attention"
        return self._kernel(
            s,
            name,
            "attention",
            compute_us=compute,
            memory_us=moved / (self.spec.bytes_per_us * self.rates.gemm_memory),
            ideal_us=max(flops / peak, moved / self.spec.bytes_per_us),
            flops=flops,
            moved=moved,
            compiled=compiled,
        )

    def _normalization(self, s: OpSignature, base: str, compiled: bool) -> Iterable[Kernel]:
        x = s.inputs[0]
        size = touched(x)
        grouped = "group_norm" in base or "batch_norm" in base or "instance_norm" in base
        if not grouped or compiled:
            # One pass where a row fits a block's registers; over a whole picture the statistics need a
            # pass of their own.
            passes = 3.0 if grouped else 2.0
            share = self.rates.triton if compiled else self.rates.norm
            yield self._norm_kernel(s, base, passes * size, share, compiled)
            return
        # RowwiseMoments (one block a group), ComputeFusedParams, then a pointwise kernel
        # (aten/src/ATen/native/cuda/group_norm_kernel.cu).
        groups = x.shape[0] * int(s.scalars.get("num_groups", s.scalars.get("group", x.shape[1])) or 1)
        busy = min(1.0, groups / self.spec.processors)
        if not is_dense(x):
            # It works on contiguous input (`X.contiguous()` in the same file).
            yield self._layout(s, "contiguous", size)
        yield self._norm_kernel(s, "RowwiseMoments", float(size), self.rates.stream * busy, False)
        yield self._norm_kernel(s, "ComputeFusedParams", 0.0, 1.0, False)
        yield self._pointwise(s, base, 2 * size, x.dtype.itemsize)

    def _norm_kernel(self, s: OpSignature, name: str, moved: float, share: float, compiled: bool) -> Kernel:
        return self._kernel(
            s,
            name,
            "norm",
            compute_us=0.0,
            memory_us=moved / (self.spec.bytes_per_us * share),
            ideal_us=moved / self.spec.bytes_per_us,
            flops=0.0,
            moved=moved,
            compiled=compiled,
        )

    def _softmax(self, s: OpSignature, base: str, compiled: bool) -> Kernel:
        moved = float(sum(map(touched, s.inputs)) + sum(map(touched, s.outputs)))
        elements = s.outputs[0].numel
        return self._kernel(
            s,
            base,
            "reduction",
            compute_us=elements / (self.rates.softmax_elements_per_us_sm * self.spec.processors),
            memory_us=self.streaming_us(moved, 4, compiled),
            ideal_us=moved / self.spec.bytes_per_us,
            flops=4.0 * elements,
            moved=moved,
            compiled=compiled,
        )


def _copy_name(s: OpSignature, base: str) -> str:
    """`cast_float32_bfloat16` for a copy that changes the type."""
    source, target = s.inputs[-1] if base == "copy_" else s.inputs[0], s.outputs[0]
    if base in CASTS and source.dtype != target.dtype:
        return f"cast_{dtype_name(source.dtype)}_{dtype_name(target.dtype)}"
    return base
