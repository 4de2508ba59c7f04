"""`torch.sim`: what `torch.cuda` is to CUDA, for the simulated device."""

from __future__ import annotations

import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from .blocking import SYNCHRONIZE
from .session import SESSION, tell_blocking
from .tensor import NAME

DEFAULT_MEMORY = 80 << 30
"""Bytes, where no data sheet is given."""


def wait(op: str) -> None:
    """Report an explicit synchronize."""
    tell_blocking(SYNCHRONIZE.kind, op, SYNCHRONIZE.reason, SYNCHRONIZE.source)


class Event:
    """A point in a stream. Times are host times: nothing runs on the device."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._at: float | None = None

    def record(self, stream: Any = None) -> None:
        """Mark the point."""
        self._at = time.perf_counter()

    def wait(self, stream: Any = None) -> None:
        """Let a stream wait: the host goes on."""

    def query(self) -> bool:
        """Whether the point is reached: always."""
        return True

    def synchronize(self) -> None:
        """Let the host wait."""
        wait("Event.synchronize")

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds between two points, on the host's clock."""
        if self._at is None or end._at is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end._at - self._at) * 1e3


class Stream:
    """A queue of the device."""

    device_index = 0
    device_type = 20
    """c10::DeviceType::PrivateUse1."""
    _count = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        Stream._count += 1
        self.stream_id = Stream._count

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(NAME, 0)

    def synchronize(self) -> None:
        """Let the host wait."""
        wait("Stream.synchronize")

    def wait_stream(self, stream: Any) -> None:
        """Let this stream wait: the host goes on."""

    def wait_event(self, event: Any) -> None:
        """Let this stream wait: the host goes on."""

    def record_event(self, event: Event | None = None) -> Event:
        """Mark a point."""
        event = event or Event()
        event.record(self)
        return event

    def query(self) -> bool:
        """Whether it is drained: always."""
        return True

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: Any) -> None:
        pass


_default_stream = Stream()


class SimModule(types.ModuleType):
    """The module `torch.sim`."""

    Event = Event
    Stream = Stream

    def is_available(self) -> bool:
        """Only while the simulated device is active."""
        return SESSION.active

    def is_initialized(self) -> bool:
        return SESSION.active

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        return True

    def init(self) -> None:
        pass

    _lazy_init = init

    def device_count(self) -> int:
        return 1 if SESSION.active else 0

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    # The device draws from the CPU's default generator, so that runs equal the CPU's.
    def manual_seed(self, seed: int) -> None:
        pass

    manual_seed_all = manual_seed

    def seed(self) -> None:
        pass

    seed_all = seed

    def initial_seed(self) -> int:
        return torch.initial_seed()

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16, torch.float32]

    def empty_cache(self) -> None:
        pass

    ipc_collect = empty_cache

    def memory_allocated(self, device: Any = None) -> int:
        return SESSION.allocated

    memory_reserved = memory_allocated

    def max_memory_allocated(self, device: Any = None) -> int:
        return SESSION.peak

    max_memory_reserved = max_memory_allocated

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        SESSION.peak = SESSION.allocated

    reset_max_memory_allocated = reset_peak_memory_stats

    def reset_accumulated_memory_stats(self, device: Any = None) -> None:
        pass

    def memory_stats(self, device: Any = None) -> dict[str, int]:
        return {
            "allocated_bytes.all.current": SESSION.allocated,
            "allocated_bytes.all.peak": SESSION.peak,
            "reserved_bytes.all.current": SESSION.allocated,
            "reserved_bytes.all.peak": SESSION.peak,
        }

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        """(free, total) bytes; free is never negative, whatever doesn't fit."""
        total = self._total()
        return max(total - SESSION.allocated, 0), total

    def _total(self) -> int:
        return int(getattr(SESSION.spec, "memory_bytes", 0) or DEFAULT_MEMORY)

    def get_device_properties(self, device: Any = None) -> SimpleNamespace:
        """As `torch.cuda.get_device_properties`, from the data sheet of the active device."""
        spec = SESSION.spec
        major, minor = self.get_device_capability()
        return SimpleNamespace(
            name=self.get_device_name(),
            total_memory=self._total(),
            major=major,
            minor=minor,
            multi_processor_count=getattr(spec, "processors", 108),
            L2_cache_size=int(getattr(spec, "cache_mib", 40) * 2**20),
            warp_size=32,
        )

    def get_device_capability(self, device: Any = None) -> tuple[int, int]:
        major, minor = getattr(SESSION.spec, "capability", (8, 0))
        return major, minor

    def get_device_name(self, device: Any = None) -> str:
        return str(getattr(SESSION.spec, "name", "Simulated GPU"))

    def synchronize(self, device: Any = None) -> None:
        """Let the host wait for the device."""
        wait("torch.sim.synchronize")

    def current_stream(self, device: Any = None) -> Any:
        return _default_stream

    default_stream = current_stream

    def set_stream(self, stream: Any) -> None:
        pass

    @contextmanager
    def stream(self, stream: Any) -> Iterator[Any]:
        """Launch into a stream. All streams run in order here."""
        yield stream

    def device(self, device: Any) -> Any:
        """Choose the device: there is one."""
        return nullcontext()

    device_of = device
