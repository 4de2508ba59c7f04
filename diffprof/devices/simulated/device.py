"""A simulated GPU as a place to run a target."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from diffprof.devices.simulated import Observer, observing, place, simulated_gpu
from diffprof.devices.simulated.session import SESSION
from diffprof.devices.simulated.tensor import forget
from diffprof.gpu.hosts import chosen_host
from diffprof.gpu.specs import load_spec
from diffprof.model.pipeline import Pipeline
from diffprof.model.recording import DeviceInfo, Grade


class SimulatedDevice:
    """`sim:<gpu>`. The pipeline's code runs; weights and activations have shapes only."""

    kind = "sim"
    grade = Grade.SIMULATED
    wants_values = False
    unknown = True
    """Whether the values of weights are unknown."""

    def __init__(self, gpu: str) -> None:
        """Raises UsageError for a GPU that has no data sheet here."""
        self.gpu = load_spec(gpu)
        self.spec = f"sim:{self.gpu.key}"
        self._torch_device: torch.device | None = None

    @property
    def torch_device(self) -> torch.device:
        """Valid while the device is active."""
        if self._torch_device is None:
            raise RuntimeError(f"{self.spec} is not active")
        return self._torch_device

    def info(self) -> DeviceInfo:
        return DeviceInfo(
            spec=self.spec,
            kind=self.kind,
            name=self.gpu.name,
            grade=self.grade,
            memory_bytes=self.gpu.memory_bytes,
            details={
                "architecture": self.gpu.architecture,
                "capability": ".".join(map(str, self.gpu.capability)),
                "processors": self.gpu.processors,
                "peak_tflops": dict(self.gpu.peak),
                "bandwidth_gb_s": self.gpu.bandwidth_gb_s,
                "power_w": self.gpu.power_w,
                "host": chosen_host().name,
                **({"note": self.gpu.note} if self.gpu.note else {}),
            },
        )

    @contextmanager
    def active(self) -> Iterator[torch.device]:
        """PyTorch's CPU works in one thread meanwhile: what is computed there is small, and threads that
        wait for each other on a busy machine take several times as long."""
        with simulated_gpu(spec=self.gpu) as device, _one_thread():
            SESSION.unknown = self.unknown
            forget()
            self._torch_device = device
            try:
                yield device
            finally:
                self._torch_device = None

    def place(self, thing: Pipeline | torch.nn.Module) -> None:
        place(thing, values="unknown")

    def clock(self) -> float:
        return time.perf_counter()

    def synchronize(self) -> None:
        """Nothing: it works in step with Python."""

    @property
    def allocator(self) -> None:
        return None

    @contextmanager
    def observed(self, observer: Observer, pipe: Pipeline) -> Iterator[None]:
        with observing(observer):
            yield


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
