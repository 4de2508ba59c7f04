"""What the CPU enqueues and the device executes, event by event."""

from __future__ import annotations

from diffprof.model.recording.row import Grade, Row


class PhaseSpan(Row, frozen=True, kw_only=True):
    """One phase of the call in host order: events [first, last) of the timeline."""

    name: str
    step: int | None = None
    part: str | None = None
    block: str | None = None
    """Of a pipeline that is made of blocks, the innermost that runs: `denoise.predict`."""
    first: int = 0
    last: int = 0
    host_us: float | None = None
    device_us: float | None = None


class KernelKind(Row, frozen=True, kw_only=True):
    """One distinct device operation (op and shapes, or kernel name)."""

    name: str
    op: str
    family: str
    """gemm, attention, conv, norm, pointwise, reduction, copy, memset, sort, fft, other."""
    shape: str = ""
    dtype: str = ""
    flops: float | None = None
    bytes: float | None = None
    device_us: float | None = None
    """Mean time of one call on the device."""
    lower_bound_us: float | None = None
    bound: str | None = None
    """compute, memory or fixed: which term of the cost dominates."""
    origin: str | None = None
    """Where a simulated time comes from: measured on this GPU, on a sibling of it, or modelled."""

    @property
    def crosses_link(self) -> bool:
        """Whether it copies between host and device."""
        return self.name.startswith(("Memcpy HtoD", "Memcpy DtoH"))


class Timeline(Row, frozen=True, kw_only=True):
    """Two lanes in a form that can be run again with parts left out (see `diffprof.judge.timeline`).

    Columns of equal length, one entry per event in host order. An event is: the host spends `host_us`,
    then either launches device work (`device_us` > 0 on `stream`) or waits for the device (`sync` >= 0,
    index into `Recording.syncs`), or both (a blocking copy).
    """

    grade: Grade
    mode: str = "eager"
    kinds: tuple[KernelKind, ...] = ()
    modules: tuple[str, ...] = ()
    phases: tuple[PhaseSpan, ...] = ()
    kind: tuple[int, ...] = ()
    """Index into kinds; -1 for host-only events."""
    module: tuple[int, ...] = ()
    host_us: tuple[float, ...] = ()
    device_us: tuple[float, ...] = ()
    stream: tuple[int, ...] = ()
    sync: tuple[int, ...] = ()
    """Index into Recording.syncs, or -1 when the event does not block the CPU; -2 blocks without a row."""
    launch_latency_us: float = 0.0
    sync_latency_us: float = 0.0
    settle_us: tuple[float, ...] = ()
    """How long the wait of an event goes on after the end of the recorded work that it waits for, where a
    clock saw it: a column like the others. Empty: each takes `sync_latency_us`."""
    late_us: tuple[float, ...] = ()
    """How long the device work of an event did not start although nothing recorded held it up: a column like
    the others. Empty: none was late."""
    pending_limit: int = 1024
    """Launches that may be queued before the CPU has to wait (CUDA's launch queue depth)."""
    op_us: float | None = None
    """Host time of an operation without that of the modules that are called before it; only a simulated call
    knows."""
    module_us: float = 0.0
    """Host time of one module's call; only a simulated call knows."""
    graphs: bool = False
    """Whether the compiled parts are replayed as CUDA graphs; only a simulated call knows."""
    eager_kernels: int | None = None
    """Of a compiled run: kernels that the same call launches when it runs eagerly."""
