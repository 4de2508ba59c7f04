"""Measure a GPU in the format of the kernel tables: products, attention by kernel, convolutions, streams,
latencies, the link, and the rates that it holds under load."""

from __future__ import annotations

import datetime
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffprof.devices.stopwatches import Runner, Work
from diffprof.gpu.attention import Backend, Shape, attention, takes
from diffprof.gpu.calibration import Calibration, Times
from diffprof.gpu.convolution import Geometry, convolution
from diffprof.gpu.matmul import matmul
from diffprof.gpu.memory import STREAM
from diffprof.gpu.pointwise import Addressing
from diffprof.gpu.specs import GpuSpec

KERNELS = {
    Backend.FLASH2: SDPBackend.FLASH_ATTENTION,
    Backend.CUDNN: SDPBackend.CUDNN_ATTENTION,
    Backend.EFFICIENT: SDPBackend.EFFICIENT_ATTENTION,
}
ROUNDS = 3
REPEATED = 12
"""Points that are measured a second time, to say how far a repeat is off."""


@dataclass(frozen=True)
class CalibrationGrid:
    """What is measured. convolutions: (in, out, side) in channels_last. elements: of a stream, more than the
    caches hold. square: sides of the product that is held under load, for so many seconds."""

    rows: tuple[int, ...] = (64, 512, 2048, 8192)
    columns: tuple[int, ...] = (640, 1280, 3072, 12288)
    depths: tuple[int, ...] = (640, 1280, 3072, 12288)
    heads: tuple[int, ...] = (8, 24, 48)
    tokens: tuple[int, ...] = (256, 1024, 4096, 16384)
    sizes: tuple[int, ...] = (64, 128)
    convolutions: tuple[tuple[int, int, int], ...] = (
        *((320, 320, 128), (640, 640, 64), (1280, 1280, 32), (128, 128, 1024), (512, 512, 256)),
    )
    elements: int = 2**26
    square: int = 8192
    seconds: float = 3.0


REHEARSAL = CalibrationGrid(
    (16, 32),
    (32, 64),
    (32, 64),
    (1, 2),
    (16, 32),
    (16,),
    ((8, 8, 16),),
    elements=2**12,
    square=64,
    seconds=0.02,
)
"""So small that a CPU runs it in a second."""


@dataclass
class Measuring:
    """One run on an active device. left_s: seconds that are left. clock_ghz: of the processors, now."""

    spec: GpuSpec
    device: torch.device
    runner: Runner
    grid: CalibrationGrid
    synchronize: Callable[[], None]
    left_s: Callable[[], float]
    say: Callable[[str], None] = lambda what: None
    clock: Callable[[], float] = time.perf_counter
    clock_ghz: Callable[[], float | None] = lambda: None
    first: dict[str, float] = field(default_factory=dict)
    works: dict[str, Callable[[], Work]] = field(default_factory=dict)

    @property
    def half(self) -> tuple[torch.dtype, str]:
        return (torch.bfloat16, "bf16") if "bf16" in self.spec.peak else (torch.float16, "fp16")

    def run(self) -> Calibration:
        """Everything, the most important first; what there is no time for is left to the model."""
        sheet: dict[str, float] = {}
        rates: dict[str, float] = {}
        tables: dict[str, Times] = {}
        parts: Sequence[tuple[str, Callable[[], None]]] = (
            ("products under load", lambda: sheet.update(self._sustained())),
            ("streams", lambda: self._streams(sheet, rates)),
            ("products", lambda: tables.update(self._products())),
            ("attention", lambda: tables.update(self._attention())),
            ("convolutions", lambda: sheet.update(self._convolutions())),
            ("latencies and link", lambda: sheet.update(self._latencies())),
        )
        done = []
        for name, part in parts:
            if self.left_s() > 0:
                self.say(name)
                part()
                self.spec = replace(self.spec, **sheet)  # type: ignore[arg-type]
                done.append(name)
        self.say("a repeat")
        about = {
            "device": self.spec.name,
            "torch": torch.__version__,
            "cuda": torch.version.cuda or torch.version.hip or "",
            "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "parts": ", ".join(done),
            "repeat": self._repeat(),
        }
        return Calibration(self.spec.key, sheet, rates, tables, about)

    # --- single kernels ---------------------------------------------------------------------------------

    def _us(self, key: str, build: Callable[[], Work]) -> float | None:
        """The least of a few rounds; None where the device can't, or there is no time."""
        if self.left_s() <= 0:
            return None
        try:
            with torch.no_grad():
                work = build()
                work()
                found = min(self.runner.microseconds(work) for _ in range(ROUNDS))
        except (RuntimeError, ValueError):  # no such kernel, or no room
            return None
        self.first[key], self.works[key] = found, build
        return max(found, 1e-3)

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype or self.half[0], device=self.device)

    def _repeat(self) -> str:
        """How far a second measurement of some of the points is off, in the middle."""
        keys = list(self.works)[:: max(1, len(self.works) // REPEATED)]
        with torch.no_grad():
            errors = [abs(self._again(key) / max(self.first[key], 1e-3) - 1.0) for key in keys]
        return f"{statistics.median(errors):.1%}" if errors else "none"

    def _again(self, key: str) -> float:
        work = self.works[key]()
        work()
        return max(min(self.runner.microseconds(work) for _ in range(ROUNDS)), 1e-3)

    def _products(self) -> Iterator[tuple[str, Times]]:
        grid, kind = self.grid, self.half[1]

        def build(m: int, n: int, k: int) -> Work:
            x, weight = self._empty(m, k), self._empty(n, k)
            return lambda: torch.nn.functional.linear(x, weight)

        def modelled(m: int, n: int, k: int) -> float:
            return matmul(self.spec.uncalibrated, 1, m, n, k, kind, 2).us

        axes = (grid.rows, grid.columns, grid.depths)
        found = self._table("linear", axes, build, modelled)
        if found is not None:
            yield "matmul.bf16", found

    def _attention(self) -> Iterator[tuple[str, Times]]:
        grid, (_, kind) = self.grid, self.half
        for backend, kernel in KERNELS.items():
            if not takes(self.spec, backend, Shape(1, 64, 64, grid.sizes[0], grid.sizes[0]), kind):
                continue

            def build(heads: int, tokens: int, size: int, kernel: SDPBackend = kernel) -> Work:
                q, k, v = (self._empty(1, heads, tokens, size) for _ in range(3))

                def work() -> torch.Tensor:
                    with sdpa_kernel(kernel):
                        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

                return work

            def modelled(heads: int, tokens: int, size: int, backend: Backend = backend) -> float:
                shape = Shape(heads, tokens, tokens, size, size)
                return attention(self.spec.uncalibrated, backend, shape, kind, 2).us

            found = self._table(str(backend), (grid.heads, grid.tokens, grid.sizes), build, modelled)
            if found is not None:
                yield f"attention.{backend}", found

    def _table(
        self,
        name: str,
        axes: tuple[tuple[int, ...], ...],
        build: Callable[..., Work],
        modelled: Callable[..., float],
    ) -> Times | None:
        """A whole grid: what could not be measured is the model's, times what the others are off by. None
        where nothing could."""
        logs = np.full([len(axis) for axis in axes], np.nan)
        guesses = np.zeros_like(logs)
        for index, point in zip(np.ndindex(logs.shape), itertools.product(*axes), strict=True):
            guesses[index] = math.log(modelled(*point))
            us = self._us(f"{name} {point}", lambda point=point: build(*point))  # type: ignore[misc]
            if us is not None:
                logs[index] = math.log(us)
        off = logs - guesses
        if np.isnan(off).all():
            return None
        logs = np.where(np.isnan(logs), guesses + float(np.nanmedian(off)), logs)
        return tuple(tuple(map(float, axis)) for axis in axes), np.exp(logs)

    def _convolutions(self) -> dict[str, float]:
        shares = []
        for inputs, outputs, side in self.grid.convolutions:

            def build(inputs: int = inputs, outputs: int = outputs, side: int = side) -> Work:
                last = torch.channels_last
                x = self._empty(1, inputs, side, side).to(memory_format=last)
                weight = self._empty(outputs, inputs, 3, 3).to(memory_format=last)
                return lambda: torch.nn.functional.conv2d(x, weight, padding=1)

            us = self._us(f"convolution {inputs} {outputs} {side}", build)
            moved = 2.0 * (side * side * (inputs + outputs) + 9 * inputs * outputs)
            geometry = Geometry(2, 1, side * side, outputs, 9 * inputs, 9, moved)
            if us is not None:
                shares.append(us / convolution(self.spec.uncalibrated, geometry, self.half[1], 2).us)
        return {"convolution": statistics.median(shares)} if shares else {}

    # --- figures of the sheet ---------------------------------------------------------------------------

    def _sustained(self) -> dict[str, float]:
        """Shares of the peak that products hold over seconds, at the clock of a warm device."""
        side, found = self.grid.square, {}
        for name, kind, dtype in (
            ("achievable", self.half[1], self.half[0]),
            ("achievable_fp32", "fp32", torch.float32),
        ):
            x = self._empty(side, side, dtype=dtype)
            us = self._held(lambda x=x: x @ x)  # type: ignore[misc]
            found[name] = 2.0 * side**3 / (us / 1e6) / self.spec.flops(kind)
        clock = self.clock_ghz()
        return found if clock is None else {**found, "clock_ghz": clock}

    def _held(self, work: Work) -> float:
        """Microseconds of one piece of work, repeated for seconds; those of the last third."""
        taken: list[float] = []
        begin = self.clock()
        with torch.no_grad():
            while not taken or self.clock() - begin < self.grid.seconds / 2:
                taken.append(self.runner.microseconds(work))
        return max(statistics.median(taken[-(len(taken) // 3 + 1) :]), 1e-3)

    def _streams(self, sheet: dict[str, float], rates: dict[str, float]) -> None:
        """Rates by how memory is addressed, and the bandwidth of memory."""
        count = self.grid.elements
        side = math.isqrt(count)
        width = self.half[0].itemsize
        builds: dict[Addressing, Callable[[], Work]] = {
            Addressing.CONTIGUOUS: lambda: _unary(self._empty(count), lambda x: x + x),
            Addressing.BROADCAST: lambda: _unary(self._empty(side, side), lambda x: x + x[:1]),
            Addressing.CAST_UP: lambda: _unary(self._empty(count), lambda x: x.to(torch.float32)),
            Addressing.TRANSPOSED: lambda: _unary(self._empty(side, side), lambda x: x.t().contiguous()),
            Addressing.CONCATENATED: lambda: _unary(self._empty(count // 2), lambda x: torch.cat((x, x))),
            Addressing.ROW_NORM: lambda: _unary(
                self._empty(side, side), lambda x: torch.nn.functional.layer_norm(x, (side,))
            ),
        }
        for addressing, build in builds.items():
            us = self._us(f"stream {addressing.name}", build)
            if us is None:
                continue
            rates[addressing.name] = count / us / self.spec.cycles_per_us
            if addressing is Addressing.CONTIGUOUS:
                moved = 2.0 * count * width / us / STREAM / 1e3
                sheet["bandwidth_gb_s"] = min(moved, self.spec.bandwidth_gb_s)

    def _latencies(self) -> dict[str, float]:
        """From a launch on an idle device to the return of a wait for it, shared by both ends; the link."""
        x = self._empty(1)
        taken = []
        for _ in range(50):
            self.synchronize()
            x.add_(1)
            begin = self.clock()
            self.synchronize()
            taken.append((self.clock() - begin) * 1e6)
        around = max(statistics.median(taken) - 2.0, 0.5)
        found = {"launch_latency_us": around / 2, "sync_latency_us": around / 2}
        host = self._host_memory()
        us = self._us("link", lambda: lambda: host.to(self.device, non_blocking=True))
        if us is not None and self.device.type == "cuda":
            found["link_gb_s"] = host.numel() * host.element_size() / us / 1e3
        return found

    def _host_memory(self) -> torch.Tensor:
        host = torch.empty(self.grid.elements, dtype=torch.uint8)
        return host.pin_memory() if self.device.type == "cuda" else host


def _unary(x: torch.Tensor, call: Callable[[torch.Tensor], torch.Tensor]) -> Work:
    return lambda: call(x)
