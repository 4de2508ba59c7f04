"""One scan, whole: everything that it saw."""

from __future__ import annotations

from typing import Any

from diffprof.model.recording.allowances import Allowance
from diffprof.model.recording.attention import AttentionRow
from diffprof.model.recording.graph_breaks import CaptureRow, ComplexRow, GraphBreakRow, RecompileRow
from diffprof.model.recording.quantization import LinearRow, Quantization
from diffprof.model.recording.row import Row
from diffprof.model.recording.setup import Setup
from diffprof.model.recording.site import Unseen
from diffprof.model.recording.syncs import SyncRow
from diffprof.model.recording.target import DeviceInfo, Environment, TargetInfo
from diffprof.model.recording.timeline import Timeline
from diffprof.model.recording.usage import BlockRow, GapRow, KernelRow, LineRow, MemoryUse, Timing

SCHEMA = 1
"""Version of the stored form; a reader refuses a newer one."""

INTERRUPTED = "interrupted"
"""`Recording.failure` of a run that was stopped with Ctrl-C."""


class Recording(Row, frozen=True, kw_only=True):
    """Everything that one scan saw."""

    target: TargetInfo
    device: DeviceInfo
    environment: Environment
    created: str
    """ISO 8601, UTC."""
    analyzers: tuple[str, ...] = ()
    """What was looked at, as asked for."""
    settings: dict[str, Any] = {}
    """Of the analyzers, where given."""
    seconds: dict[str, float] = {}
    """Wall time of the scan itself: import, build, scan, by probe. Not the pipeline's time."""
    ops: int | None = None
    """Device operations of the call."""
    partial: bool = False
    failure: str | None = None
    """Why the run ended early, when it did."""
    sources: dict[str, str] = {}
    """SHA-256 of each user source file named by a site."""
    syncs: tuple[SyncRow, ...] | None = None
    unseen: tuple[Unseen, ...] = ()
    timing: Timing | None = None
    timeline: Timeline | None = None
    kernels: tuple[KernelRow, ...] | None = None
    gaps: tuple[GapRow, ...] | None = None
    casts: tuple[LineRow, ...] | None = None
    """By line, that with most of the device's time first; None of a trace and of compiled parts."""
    bursts: tuple[LineRow, ...] | None = None
    """Lines that launch many operations one after the other; as `casts`."""
    blocks: tuple[BlockRow, ...] | None = None
    """Of a pipeline that is made of blocks, as measured on a CPU; elsewhere `timeline` tells them."""
    memory: MemoryUse | None = None
    linears: tuple[LinearRow, ...] | None = None
    attention: tuple[AttentionRow, ...] | None = None
    """By shape, under every kernel that the device has for it."""
    quantization: Quantization | None = None
    captures: tuple[CaptureRow, ...] | None = None
    graph_breaks: tuple[GraphBreakRow, ...] | None = None
    recompiles: tuple[RecompileRow, ...] | None = None
    complex_numbers: tuple[ComplexRow, ...] | None = None
    """In what was captured."""
    setup: Setup | None = None
    allowances: tuple[Allowance, ...] | None = ()
    """What is allowed on purpose: in the files of what was found, in blocks that were entered, and by the
    configuration."""
    extra: dict[str, Any] = {}
    """Sections of analyzers that other packages bring, by name: plain data."""
    trace_file: str | None = None
    """Kineto-style trace beside the stored report, relative path."""

    def section(self, name: str) -> Any:
        """One of the sections above, or of another package; None: not measured."""
        return getattr(self, name) if name in self.__struct_fields__ else self.extra.get(name)
