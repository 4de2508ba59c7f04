"""Where time and memory went: kernels, idle gaps, peaks, clean passes."""

from __future__ import annotations

import enum

from diffprof.model.recording.row import Grade, Row
from diffprof.model.recording.site import Site


class KernelRow(Row, frozen=True, kw_only=True):
    """Device time of one kernel kind in one module and phase."""

    name: str
    op: str
    family: str
    module: str | None = None
    phase: str | None = None
    count: int
    device_us: float
    host_us: float | None = None
    flops: float | None = None
    bytes: float | None = None
    shape: str = ""
    dtype: str = ""
    share: float | None = None
    """Of all device time, 0..1."""


class LineRow(Row, frozen=True, kw_only=True):
    """What a line of source launches in a call that runs eagerly, of operations of one kind."""

    site: Site
    count: int
    device_us: float


class BlockRow(Row, frozen=True, kw_only=True):
    """One block of a pipeline that is made of them, over the whole call, without those in it. elapsed_ms: of
    the host, waits included; device_ms, waits: None where no device was looked at."""

    name: str
    elapsed_ms: float
    device_ms: float | None = None
    waits: int | None = None


class GapRow(Row, frozen=True, kw_only=True):
    """Device idle time, by cause: python, sync, launch, copy, stall, allocation, cpu-op, data, tail, unknown
    (`chrome_trace.idle.find_gaps` says what each means)."""

    cause: str
    start_us: float
    duration_us: float
    phase: str | None = None
    step: int | None = None
    after: str | None = None
    """The kernel that ran before the gap."""
    before: str | None = None
    during: str | None = None
    """The runtime call or op that the CPU was in for most of it, such as `cudaFree of aten::conv2d`."""
    site: Site | None = None
    sync: int | None = None
    count: int = 1
    """Gaps summed up in this row; start_us is the first one's."""

    @property
    def is_head(self) -> bool:
        """Whether it lies before the device's first work."""
        return self.after is None and self.before is not None


class MemoryKind(enum.StrEnum):
    """What a piece of the device's memory is."""

    WEIGHTS = "weights"
    IDLE_WEIGHTS = "idle-weights"
    """Of a model that has nothing to do when most memory is in use, such as a text encoder in the loop."""
    ACTIVATIONS = "activations"
    WORKSPACE = "workspace"
    """Held by an operation while it runs."""
    AUTOCAST = "autocast"
    """Copies of weights that `torch.autocast` keeps."""
    OTHER = "other"
    """Was there before the call, and is no model's."""


class MemoryHolder(Row, frozen=True, kw_only=True):
    """Tensors alive when most memory is in use: those of one kind, module, line and shape together.

    phase: in which they were made; "before" the call. op: what made them. bytes: of all `count` of them.
    """

    kind: MemoryKind
    module: str | None = None
    site: Site | None = None
    phase: str | None = None
    op: str | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    bytes: int = 0
    count: int = 0


class MemoryPoint(Row, frozen=True, kw_only=True):
    """The most bytes in use from operation `op` of the call until the next point."""

    op: int
    bytes: int


class MemoryUse(Row, frozen=True, kw_only=True):
    """Device memory over one call."""

    grade: Grade
    weights_bytes: int | None = None
    peak_bytes: int | None = None
    capacity_bytes: int | None = None
    by_phase: dict[str, int] = {}
    """Peak bytes in each phase."""
    by_step: tuple[int, ...] = ()
    """Live bytes at the end of each denoising step."""
    host_bytes: int | None = None
    """Of weights that are kept in host memory to be offloaded."""
    peak_phase: str | None = None
    peak_step: int | None = None
    peak_module: str | None = None
    """The module that ran when most was in use."""
    at_peak: tuple[MemoryHolder, ...] | None = None
    """Who held it then, largest first. They sum to the peak."""
    curve: tuple[MemoryPoint, ...] = ()
    """Bytes in use over the call."""


class Doubt(enum.StrEnum):
    """Why the time of a call is not to be trusted."""

    ONE_PASS = "one-pass"
    """Made once: nothing says how far a second one would be from it."""
    SPREAD = "spread"
    """The passes are far from each other."""
    LOADED = "loaded"
    """Other processes kept the machine busy."""
    COMPILED = "compiled"
    """Code was compiled in a pass."""
    WATCHED = "watched"
    """Every operation was looked at while it ran, which takes time of its own."""


class PhaseTime(Row, frozen=True, kw_only=True):
    """What a call spent in one phase. part: denoiser or scheduler; None: between them."""

    phase: str
    part: str | None = None
    seconds: float


class Timing(Row, frozen=True, kw_only=True):
    """Clean wall-clock passes. seconds: every pass; compiled/eager in mode. Of an imported trace there are no
    passes, and `median` is its length."""

    grade: Grade
    mode: str = "eager"
    seconds: tuple[float, ...] = ()
    median: float | None = None
    spread: float | None = None
    """Half the interquartile range, seconds."""
    warmups: int | None = None
    """Calls made before the passes, with those in which something was compiled."""
    load: float | None = None
    """Other work on the machine, in busy cores per core; None where the system does not tell."""
    doubts: tuple[Doubt, ...] = ()
    phases: tuple[PhaseTime, ...] = ()
    """By phase, in the call's order, where a clock and no timeline tells; together they are the call."""
    device_busy: float | None = None
    """Share of the call's wall time in which the device worked, 0..1."""
    warm_up: tuple[str, ...] = ()
    """What only a first call does and this one did: "compiled", "captured a CUDA graph", ..."""
    origin: dict[str, float] = {}
    """Of a simulated call: share of the device's time by where it is from (measured, sibling, modelled)."""
    margin: float | None = None
    """Of a simulated call: how far the time may be off either way, as a share of it, in nine of ten cases."""
