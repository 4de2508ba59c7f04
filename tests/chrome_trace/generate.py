"""Writes a trace as torch 2.13 does for a GPU run with stacks and shapes, of any size.

Denoising steps of transformer blocks: about 84 % of the events are Python frames, as in real profiles.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PID = 7215
ORIGIN_US = 4533108062573.986
HEADER = """ {
    "schemaVersion": 1,
    "deviceProperties": [
    {
      "id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 85093777408,
      "computeMajor": 8, "computeMinor": 0,
      "maxThreadsPerBlock": 1024, "numSms": 108
    }
  ],
    "with_stack": 1,
    "record_shapes": 1,
    "displayTimeUnit": "ms",
    "baseTimeNanoseconds": 1790857026000000000,
    "traceEvents": [
"""
KERNELS = (
    (
        "aten::addmm",
        "ampere_fp16_s16816gemm_fp16_128x128_ldg8_f2f_stages_32x5_nn",
        [[640], [8192, 640], [640, 640]],
        95.0,
    ),
    (
        "aten::mul",
        "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<c10::Half, c10::Half, "
        "c10::Half, at::native::binary_internal::MulFunctor<float> >, at::detail::Array<char*, 3> >(int, "
        "at::native::BinaryFunctor<c10::Half, c10::Half, c10::Half, "
        "at::native::binary_internal::MulFunctor<float> >, at::detail::Array<char*, 3>)",
        [[2, 4096, 640], [2, 4096, 640]],
        14.0,
    ),
    (
        "aten::_scaled_dot_product_flash_attention",
        "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64, 128, 128, 4, false, "
        "false, cutlass::half_t> >(pytorch_flash::Flash_fwd_params)",
        [[2, 10, 4096, 64], [2, 10, 4096, 64], [2, 10, 4096, 64]],
        210.0,
    ),
)
FRAMES_A_KERNEL = 23
"""Python frames for each launch: with the op, the call, the kernel and two arrows 84 % of the events."""


@dataclass
class Facts:
    """What the written trace holds."""

    events: int = 0
    kernels: int = 0
    reads: int = 0
    frames: int = 0
    steps: int = 0
    device_us: float = 0.0


def _span(category: str, name: str, tid: int, start: float, length: float, args: str, pid: int = PID) -> str:
    return (
        f'  {{\n    "ph": "X",\n    "cat": "{category}",\n    "name": {json.dumps(name)},\n'
        f'    "pid": {pid},\n    "tid": {tid},\n    "ts": {start:.3f},\n    "dur": {length:.3f}\n    ,\n'
        f'    "args": {{\n      {args}\n    }}\n  }}'
    )


def _arrow(ph: str, number: int, pid: int, tid: int, at: float) -> str:
    bp = '"bp": "e", ' if ph == "f" else ""
    return (
        f'  {{\n    "ph": "{ph}", {bp}"id": {number}, "pid": {pid}, "tid": {tid}, "ts": {at:.3f},\n'
        '    "cat": "ac2g", "name": "ac2g"\n  }'
    )


def _frame(name: str, start: float, length: float, number: int) -> str:
    args = f'"Python parent id": {max(number - 1, 0)}, "Python id": {number}, "Ev Idx": {number}'
    return _span("python_function", name, PID, start, length, args)


class _Writer:
    def __init__(self) -> None:
        self.now = ORIGIN_US
        self.free = ORIGIN_US
        self.number = 0
        self.facts = Facts()

    def _next(self) -> int:
        self.number += 1
        return self.number

    def launch(self, block: int, which: int) -> Iterator[str]:
        """The frames, op, call, kernel and arrows of one launch."""
        op, kernel, shapes, device_us = KERNELS[which]
        begin = self.now
        length = 4.0 * FRAMES_A_KERNEL + 12.0
        for depth in range(FRAMES_A_KERNEL):
            at = begin + 2.0 * depth
            name = (
                f"nn.Module: Block_{block}"
                if depth == 0
                else f"<built-in method mul of Tensor object at 0x7f17{self.number:08x}>"
                if depth % 3 == 2
                else f"torch/nn/modules/module.py({1700 + depth}): _call_impl"
                if depth % 3 == 1
                else f"diffusers/models/attention.py({100 + depth}): forward_{depth}"
            )
            yield _frame(name, at, length - 4.0 * depth, self._next())
        self.facts.frames += FRAMES_A_KERNEL
        at = begin + 2.0 * FRAMES_A_KERNEL
        yield from self._work(op, "cudaLaunchKernel", "kernel", kernel, shapes, at, device_us)
        self.now = begin + length
        self.facts.kernels += 1

    def _work(
        self,
        op: str,
        call: str,
        category: str,
        name: str,
        shapes: list[list[int]],
        at: float,
        device_us: float,
    ) -> Iterator[str]:
        number = self._next()
        dtypes, dims = json.dumps(["c10::Half"] * len(shapes)), json.dumps(shapes)
        yield _span(
            "cpu_op",
            op,
            PID,
            at,
            9.0,
            f'"External id": {number},"Record function id": 0, "Concrete Inputs": ["", "", "1"], '
            f'"Input type": {dtypes}, "Input Strides": {dims}, "Input Dims": {dims}, "Ev Idx": {number}',
        )
        yield _span(
            "cuda_runtime",
            call,
            PID,
            at + 3.0,
            5.0,
            f'"External id": {number}, "cbid": 211, "correlation": {number}',
        )
        yield _arrow("s", number, PID, PID, at + 3.0)
        start = max(self.free, at + 9.0)
        self.free = start + device_us
        extra = (
            '"queued": 0, "registers per thread": 128, "shared memory": 81920, "blocks per SM": 5.925926, '
            '"warps per SM": 23.703703, "grid": [5, 64, 2], "block": [128, 1, 1], '
            '"est. achieved occupancy %": 12'
            if category == "kernel"
            else '"bytes": 2, "memory bandwidth (GB/s)": 0.001'
        )
        yield _span(
            category,
            name,
            7,
            start,
            device_us,
            f'"External id": {number}, "device": 0, "context": 1, "stream": 7, '
            f'"correlation": {number}, {extra}',
            pid=0,
        )
        yield _arrow("f", number, 0, 7, start)
        self.facts.device_us += device_us

    def read(self) -> Iterator[str]:
        """A scheduler step that reads one value."""
        begin = self.now
        yield from self._work(
            "aten::_local_scalar_dense",
            "cudaMemcpyAsync",
            "gpu_memcpy",
            "Memcpy DtoH (Device -> Pageable)",
            [[]],
            begin + 6.0,
            2.0,
        )
        wait = begin + 14.5
        end = max(wait, self.free) + 6.0
        yield _span(
            "cuda_runtime",
            "cudaStreamSynchronize",
            PID,
            wait,
            end - wait,
            f'"cbid": 131, "correlation": {self._next()}',
        )
        self.now = end + 5.0
        yield _frame(
            "diffusers/schedulers/scheduling_ddim.py(342): step",
            begin + 1.0,
            self.now - begin - 2.0,
            self._next(),
        )
        self.facts.reads += 1
        self.facts.frames += 1

    def trace(self, size: int) -> Iterator[str]:
        """Events until about `size` bytes are written."""
        written = 0
        begin = self.now
        self.now += 50.0
        while written < size:
            step = self.now
            for block in range(20):
                for which in range(len(KERNELS)):
                    for text in self.launch(block, which):
                        written += len(text)
                        yield text
            yield _frame("nn.Module: UNet2DConditionModel_0", step, self.now - step, self._next())
            self.now += 5.0
            for text in self.read():
                written += len(text)
                yield text
            self.now += 40.0
            self.facts.steps += 1
            self.facts.frames += 1
        self.now = max(self.now, self.free)
        yield _frame(
            "diffusers/pipelines/stable_diffusion_xl/pipeline_stable_diffusion_xl.py(822): __call__",
            begin,
            self.now - begin,
            self._next(),
        )
        yield _frame("run.py(3): <module>", begin - 10.0, self.now - begin + 20.0, self._next())
        self.facts.frames += 2


def generate(path: Path, size: int) -> Facts:
    """Write a trace of about `size` bytes; returns what it holds."""
    writer = _Writer()
    with path.open("w", encoding="utf-8") as file:
        file.write(HEADER)
        separator = ""
        for text in writer.trace(size):
            file.write(separator)
            file.write(text)
            separator = ",\n"
            writer.facts.events += 1
        file.write(f'\n  ],"traceName": "{path.name}" }}\n')
    return writer.facts
