"""All that diffprof itself asks of CUDA, in one class: a test puts another in its place, and whole commands
run through it without a GPU.

Every method takes the number of the device: with several GPUs, the current one is not always the one that is
measured.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeAlias

import torch
from torch.profiler import ProfilerActivity

Event: TypeAlias = torch.cuda.Event


class CudaRuntime:
    """The CUDA devices that PyTorch sees. Times of the clock are seconds, sizes are bytes."""

    # --- devices --------------------------------------------------------------------------------------

    def count(self) -> int:
        """How many devices there are; 0 without CUDA."""
        return torch.cuda.device_count() if torch.cuda.is_available() else 0

    def current(self) -> int:
        """The number of the device that `"cuda"` means."""
        return torch.cuda.current_device()

    def torch_device(self, index: int) -> torch.device:
        return torch.device("cuda", index)

    def properties(self, index: int) -> torch.cuda._CudaDeviceProperties:
        """As `torch.cuda.get_device_properties`."""
        return torch.cuda.get_device_properties(index)

    def made_current(self, index: int) -> AbstractContextManager[object]:
        """The device is the current one while the context is open."""
        return torch.cuda.device(index)

    def has_bf16(self, index: int) -> bool:
        """Whether it multiplies bfloat16 in hardware: compute capability 8.0, or any that ROCm supports."""
        with self.made_current(index):
            return torch.cuda.is_bf16_supported(including_emulation=False)

    # --- time -----------------------------------------------------------------------------------------

    def clock(self) -> float:
        """The CPU's clock."""
        return time.perf_counter()

    def synchronize(self, index: int) -> None:
        """Wait until the device is idle."""
        torch.cuda.synchronize(index)

    def event(self, index: int) -> Event:
        """A timing event, recorded on the device's current stream."""
        with self.made_current(index):
            event = Event(enable_timing=True)
            event.record()
        return event

    def fill(self, tensor: torch.Tensor) -> None:
        """Launch a kernel that writes a tensor over."""
        tensor.zero_()

    def activities(self) -> tuple[ProfilerActivity, ...]:
        """What torch.profiler is to record."""
        return ProfilerActivity.CPU, ProfilerActivity.CUDA

    def export_trace(self, profiler: torch.profiler.profile, file: Path) -> None:
        """Write what a profiler recorded as a Chrome trace."""
        profiler.export_chrome_trace(str(file))

    # --- memory ---------------------------------------------------------------------------------------

    def reset_peak(self, index: int) -> None:
        torch.cuda.reset_peak_memory_stats(index)

    def peak_bytes(self, index: int) -> int:
        """The most that tensors took since the last reset."""
        return torch.cuda.max_memory_allocated(index)

    def allocated_bytes(self, index: int) -> int:
        """What tensors take now."""
        return torch.cuda.memory_allocated(index)

    def free_bytes(self, index: int) -> int:
        """What the driver has left: other processes' memory and the allocator's cache are taken off."""
        return torch.cuda.mem_get_info(index)[0]

    def release_cache(self) -> None:
        """Give memory that the allocator holds for reuse back to the driver."""
        torch.cuda.empty_cache()

    # --- waits ----------------------------------------------------------------------------------------

    def sync_debug_mode(self) -> int:
        return torch.cuda.get_sync_debug_mode()

    def set_sync_debug_mode(self, mode: int | str) -> None:
        torch.cuda.set_sync_debug_mode(mode)

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor lies on a CUDA device."""
        return tensor.is_cuda


RUNTIME: CudaRuntime = CudaRuntime()
"""The one that every CUDA device uses."""
