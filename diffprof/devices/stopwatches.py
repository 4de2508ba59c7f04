"""Clocks for single pieces of work: on the CPU with cold caches, on a CUDA device by events."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from diffprof.devices import cuda_runtime

Work = Callable[[], Any]


class Runner(Protocol):
    """Runs work once and says how long it took."""

    def microseconds(self, work: Work) -> float: ...


class HostRunner:
    """On the CPU, with caches that hold other data, as between two calls of a layer in a real step."""

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, cache_bytes: int | None = None
    ) -> None:
        self.clock = clock
        size = last_level_cache() if cache_bytes is None else cache_bytes
        self._other = torch.zeros(max(size // 4, 1), dtype=torch.int32)

    def microseconds(self, work: Work) -> float:
        self._other.add_(1)
        begin = self.clock()
        work()
        return (self.clock() - begin) * 1e6


MOST_FILLS = 512
"""Fills after which work whose launches still come too late is taken to wait for the device itself; some
20 ms on the GPUs with the slowest memory."""


class EventRunner:
    """On a CUDA device, by events around the work: the time of its kernels, one behind the other.

    Fills of twice the L2 cache run first: the cache is cold, as in a real step, and while they run the CPU
    queues the work. A library's Python takes the CPU some hundred microseconds a layer, more than a fill
    takes the device: so there are as many fills as it needs. Whether it was in time is asked of the device:
    with everything queued, it must not have come to the work yet. Work that waits for the device itself is
    never in time, and its time is the CPU's too: `host_bound` counts such runs.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.fills = 1
        self.host_bound = 0
        self.runtime = cuda_runtime.RUNTIME
        properties = self.runtime.properties(index)
        size = 2 * int(getattr(properties, "L2_cache_size", 0) or 64 << 20)
        self._other = torch.empty(size // 4, dtype=torch.int32, device=self.runtime.torch_device(index))

    def microseconds(self, work: Work) -> float:
        while True:
            taken, in_time = self._run(work)
            if in_time:
                return taken
            if self.fills >= MOST_FILLS:
                self.host_bound += 1
                return taken
            self.fills = min(2 * self.fills, MOST_FILLS)

    def _run(self, work: Work) -> tuple[float, bool]:
        """(microseconds between the events, whether all of it was queued before the device began with it)."""
        self.runtime.synchronize(self.index)
        for _ in range(self.fills):
            self.runtime.fill(self._other)
        begin = self.runtime.event(self.index)
        work()
        end = self.runtime.event(self.index)
        in_time = not begin.query()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3, in_time


def last_level_cache() -> int:
    """Bytes of the CPU's largest cache as Linux tells, at most 64 MiB; 32 MiB where it doesn't."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        factor = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        if text.rstrip("KM").isdecimal():
            sizes.append(int(text.rstrip("KM")) * factor)
    return min(max(sizes, default=32 << 20), 64 << 20)
