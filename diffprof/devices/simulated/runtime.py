"""`torch.sim`: what `torch.cuda` is to CUDA, for the simulated device."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Iterable
from types import CodeType, SimpleNamespace
from typing import Any

import torch

from diffprof.model.errors import TargetError

from . import graphs
from .blocking import FREED, POLLED
from .generators import SimGenerator
from .session import SESSION, tell_synchronize
from .tensor import NAME

_BYTES = ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes")
_COUNTS = ("allocation", "segment", "active", "inactive_split", "inactive_split_bytes")

DEFAULT_MEMORY = 80 << 30
"""Bytes, where no data sheet is given."""


class Polled:
    """What the CPU may ask whether the device has come to it. Of work that nothing was waited for since,
    the first answer is no. Asked again from the same line, with nothing launched in between, the CPU is in
    a loop that lasts until the device is there: a wait."""

    _asked: tuple[CodeType, int, int] | None = None

    def _reached(self, launched: int, op: str, stream: int | None = None) -> bool:
        """launched: `SESSION.ops` up to the point."""
        if not SESSION.drained < launched <= SESSION.ops:
            return True
        frame = sys._getframe(2)
        before, self._asked = self._asked, (frame.f_code, frame.f_lineno, SESSION.ops)
        if before is None:
            return False
        if self._asked == before:
            tell_synchronize(op, POLLED, stream=stream)
        self._asked = None
        return True


class SimulatedEvent(Polled):
    """A point in a stream. Times are host times: nothing runs on the device."""

    device_type = 20
    """c10::DeviceType::PrivateUse1."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._at: float | None = None
        self._launched = 0
        self.event_id = id(self)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return torch.device(NAME, 0)

    def record(self, stream: object = None) -> None:
        """Mark the point."""
        self._at = time.perf_counter()
        self._launched, self._asked = SESSION.ops, None

    def wait(self, stream: object = None) -> None:
        """Let a stream wait: the CPU goes on."""

    def query(self) -> bool:
        """Whether the point is reached."""
        reached = self._reached(self._launched, "Event.query")
        self._launched = 0 if reached else self._launched
        return reached

    def synchronize(self) -> None:
        """Let the CPU wait."""
        tell_synchronize("Event.synchronize")

    def elapsed_time(self, end: SimulatedEvent) -> float:
        """Milliseconds between two points, on the CPU's clock."""
        if self._at is None or end._at is None:
            raise RuntimeError("Both events must be recorded before calculating elapsed time.")
        return (end._at - self._at) * 1e3

    def ipc_handle(self) -> bytes:
        """Another process can't be given it."""
        raise needs_a_gpu("torch.cuda.Event.ipc_handle")

    @classmethod
    def from_ipc_handle(cls, device: torch.types.Device, handle: bytes) -> SimulatedEvent:
        """Another process can't have given it."""
        raise needs_a_gpu("torch.cuda.Event.from_ipc_handle")


class Stream(Polled):
    """A queue of the device. As a context it is the one that work is launched into."""

    device_index = 0
    device_type = 20
    """c10::DeviceType::PrivateUse1."""
    _count = 0

    def __init__(self, device: torch.types.Device = None, priority: int = 0, **kwargs: object) -> None:
        Stream._count += 1
        self.stream_id = Stream._count
        self.priority = priority
        self._around: list[Stream] = []

    @staticmethod
    def priority_range() -> tuple[int, int]:
        """(lowest, highest) priority, as on every CUDA GPU of the last years."""
        return 0, -5

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(NAME, 0)

    @property
    def cuda_stream(self) -> int:
        """A number of its own, as an address is; 0 for the default stream."""
        return 0 if self is _default_stream else self.stream_id

    @property
    def native_handle(self) -> int:
        """The same, of `torch.Stream`."""
        return self.cuda_stream

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.cuda_stream == other.cuda_stream

    def __hash__(self) -> int:
        return hash(self.cuda_stream)

    def is_capturing(self) -> bool:
        """Whether what is launched goes into a CUDA graph."""
        return graphs.is_current_stream_capturing()

    def synchronize(self) -> None:
        """Let the CPU wait."""
        tell_synchronize("Stream.synchronize", stream=self.cuda_stream)

    def wait_stream(self, stream: object) -> None:
        """Let this stream wait: the CPU goes on."""

    def wait_event(self, event: object) -> None:
        """Let this stream wait: the CPU goes on."""

    def record_event(self, event: SimulatedEvent | None = None) -> SimulatedEvent:
        """Mark a point."""
        event = event or SimulatedEvent()
        event.record(self)
        return event

    def query(self) -> bool:
        """Whether it is drained."""
        return self._reached(SESSION.ops, "Stream.query", self.cuda_stream)

    def __enter__(self) -> Stream:
        self._around.append(_CURRENT.stream)
        _enter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        _enter(self._around.pop())


_default_stream = Stream()


class _Current(threading.local):
    stream = _default_stream


_CURRENT = _Current()


def _enter(stream: Stream) -> None:
    _CURRENT.stream = stream
    SESSION.stream = stream.cuda_stream


class StreamContext:
    """`torch.cuda.StreamContext`: launch into a stream, None for the one there is. Copies from the CPU
    run in the stream that they are launched into; all else in order."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> Stream | None:
        return self.stream.__enter__() if self.stream is not None else None

    def __exit__(self, *exc: object) -> None:
        if self.stream is not None:
            self.stream.__exit__(*exc)


class ExternalStream(Stream):
    """A stream that another library made: every object with its address is the same stream."""

    def __init__(self, stream_ptr: int, device: torch.types.Device = None, **kwargs: object) -> None:
        super().__init__(device)
        self._address = stream_ptr

    @property
    def cuda_stream(self) -> int:
        """The address that was given; 0 is the default stream."""
        return self._address


class MemPool:
    """Memory for what is allocated under `use_mem_pool`: there is one pool here."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.id = (0, id(self))
        self.allocator = args[0] if args else kwargs.get("allocator")

    def use_count(self) -> int:
        return 1

    def snapshot(self, include_traces: bool = True) -> list[object]:
        return []


class device:
    """`torch.cuda.device`: choose the device. There is one."""

    def __init__(self, device: torch.types.Device) -> None:
        self.idx = 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass


class SimulatedCudart:
    """`torch.cuda.cudart()`: the functions of CUDA's runtime that scripts call; each returns success."""

    cudaError = SimpleNamespace(success=0)

    def __getattr__(self, name: str) -> object:
        if name in ("cudaProfilerStart", "cudaProfilerStop", "cudaHostRegister", "cudaHostUnregister"):
            return lambda *args: 0
        if name == "cudaGetErrorString":
            return lambda code: "no error"
        if name == "cudaMemGetInfo":
            return getattr(torch, NAME).mem_get_info
        if not name.startswith("cuda"):
            raise AttributeError(name)
        raise needs_a_gpu(f"torch.cuda.cudart().{name}")


ON_A_GPU = "Leave it out here, or run it on a GPU (`diffprof scan ... --device cuda`)."
"""What to do about that which only CUDA has."""


def needs_a_gpu(name: str) -> TargetError:
    """The refusal of a name that only CUDA has an answer to."""
    return TargetError(
        f"{name} is not simulated: there is no CUDA behind the simulated device.",
        ON_A_GPU,
    )


class SimModule(types.ModuleType):
    """The module `torch.sim`."""

    Event = SimulatedEvent
    Stream = Stream
    ExternalStream = ExternalStream
    StreamContext = StreamContext
    MemPool = MemPool
    CUDAGraph = graphs.CUDAGraph
    graph = graphs.graph
    device = device
    device_of = device

    make_graphed_callables = staticmethod(graphs.make_graphed_callables)
    graph_pool_handle = staticmethod(graphs.graph_pool_handle)
    is_current_stream_capturing = staticmethod(graphs.is_current_stream_capturing)

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

    def set_device(self, device: torch.types.Device) -> None:
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

    def get_rng_state(self, device: torch.types.Device = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: torch.types.Device = None) -> None:
        torch.set_rng_state(state)

    def get_rng_state_all(self) -> list[torch.Tensor]:
        return [self.get_rng_state()]

    def set_rng_state_all(self, new_states: Iterable[torch.Tensor]) -> None:
        for state in new_states:
            self.set_rng_state(state)

    @property
    def default_generators(self) -> tuple[SimGenerator, ...]:
        """One for the one device."""
        return (SimGenerator(),)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16, torch.float32]

    def empty_cache(self) -> None:
        """Give cached memory back, for which the CPU waits."""
        tell_synchronize("torch.cuda.empty_cache", FREED)

    def memory_allocated(self, device: torch.types.Device = None) -> int:
        return SESSION.allocated

    memory_reserved = memory_allocated

    def max_memory_allocated(self, device: torch.types.Device = None) -> int:
        return SESSION.peak

    max_memory_reserved = max_memory_allocated

    def reset_peak_memory_stats(self, device: torch.types.Device = None) -> None:
        SESSION.peak = SESSION.allocated

    reset_max_memory_allocated = reset_peak_memory_stats

    def reset_accumulated_memory_stats(self, device: torch.types.Device = None) -> None:
        pass

    def memory_stats(self, device: torch.types.Device = None) -> dict[str, int]:
        """Bytes in use and at most. Counts that the simulated device does not keep are 0."""
        kept = {"current": SESSION.allocated, "peak": SESSION.peak}
        stats = {
            f"{what}.{pool}.{when}": kept.get(when, 0) if what in _BYTES and pool == "all" else 0
            for what in (*_BYTES, *_COUNTS)
            for pool in ("all", "large_pool", "small_pool")
            for when in ("current", "peak", "allocated", "freed")
        }
        return {**stats, "num_alloc_retries": 0, "num_ooms": 0, "num_sync_all_streams": 0}

    def memory_stats_as_nested_dict(self, device: torch.types.Device = None) -> dict[str, object]:
        nested: dict[str, Any] = {}
        for name, value in self.memory_stats().items():
            *path, last = name.split(".")
            inner = nested
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
        return nested

    def memory_summary(self, device: torch.types.Device = None, abbreviated: bool = False) -> str:
        """What `memory_allocated` and `max_memory_allocated` say, as text."""
        return (
            f"{self.get_device_name()}: {SESSION.allocated / 2**20:.1f} MiB allocated, "
            f"{SESSION.peak / 2**20:.1f} MiB at most, of {self._total() / 2**20:.0f} MiB"
        )

    def device_memory_used(self, device: torch.types.Device = None) -> int:
        return SESSION.allocated

    def mem_get_info(self, device: torch.types.Device = None) -> tuple[int, int]:
        """(free, total) bytes; free is never negative, whatever doesn't fit."""
        total = self._total()
        return max(total - SESSION.allocated, 0), total

    def _total(self) -> int:
        return int(getattr(SESSION.spec, "memory_bytes", 0) or DEFAULT_MEMORY)

    def get_device_properties(self, device: torch.types.Device = None) -> SimpleNamespace:
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

    def get_device_capability(self, device: torch.types.Device = None) -> tuple[int, int]:
        major, minor = getattr(SESSION.spec, "capability", (8, 0))
        return major, minor

    def get_arch_list(self) -> list[str]:
        major, minor = self.get_device_capability()
        return [f"sm_{major}{minor}"]

    def is_tf32_supported(self) -> bool:
        return self.get_device_capability() >= (8, 0)

    def cudart(self) -> SimulatedCudart:
        return SimulatedCudart()

    def get_device_name(self, device: torch.types.Device = None) -> str:
        return str(getattr(SESSION.spec, "name", "Simulated GPU"))

    def synchronize(self, device: torch.types.Device = None) -> None:
        """Let the CPU wait for the device."""
        tell_synchronize("torch.cuda.synchronize")

    def current_stream(self, device: torch.types.Device = None) -> object:
        return _CURRENT.stream

    def default_stream(self, device: torch.types.Device = None) -> object:
        return _default_stream

    def set_stream(self, stream: Any) -> None:
        _enter(stream)

    def stream(self, stream: Any) -> object:
        return StreamContext(stream)

    def get_stream_from_external(self, data_ptr: int, device: torch.types.Device = None) -> object:
        return ExternalStream(data_ptr)
