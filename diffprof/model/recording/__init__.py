"""All evidence of one scan, as plain data: `Recording`, and one module a subject for its rows.

`None` in a section means *not measured*; an empty tuple means *measured and clean*. Times are in
microseconds (`_us`) or milliseconds (`_ms`), sizes in bytes. Every section that holds figures names its
evidence grade.
"""

from diffprof.model.recording.allowances import Allowance
from diffprof.model.recording.attention import AttentionRow, AttentionTiming
from diffprof.model.recording.graph_breaks import (
    BreakCost,
    CaptureRow,
    ComplexRow,
    GraphBreakRow,
    RecompileCost,
    RecompileRow,
)
from diffprof.model.recording.quantization import (
    LinearRow,
    PublishedComparison,
    Quantization,
    SchemeTiming,
    Selection,
)
from diffprof.model.recording.row import Grade, Row
from diffprof.model.recording.scan import INTERRUPTED, SCHEMA, Recording
from diffprof.model.recording.setup import Alternative, Change, KindCosts, Projection, Setup, SetupPart
from diffprof.model.recording.site import NOT_REACHED, Frame, Site, Unseen
from diffprof.model.recording.syncs import SyncRow, median, steady, steady_per_step
from diffprof.model.recording.target import Component, DeviceInfo, Environment, TargetInfo
from diffprof.model.recording.timeline import KernelKind, PhaseSpan, Timeline
from diffprof.model.recording.usage import (
    BlockRow,
    Doubt,
    GapRow,
    KernelRow,
    LineRow,
    MemoryHolder,
    MemoryKind,
    MemoryPoint,
    MemoryUse,
    PhaseTime,
    Timing,
)

__all__ = [
    "INTERRUPTED",
    "NOT_REACHED",
    "SCHEMA",
    "Allowance",
    "Alternative",
    "AttentionRow",
    "AttentionTiming",
    "BlockRow",
    "BreakCost",
    "CaptureRow",
    "Change",
    "ComplexRow",
    "Component",
    "DeviceInfo",
    "Doubt",
    "Environment",
    "Frame",
    "GapRow",
    "Grade",
    "GraphBreakRow",
    "KernelKind",
    "KernelRow",
    "KindCosts",
    "LineRow",
    "LinearRow",
    "MemoryHolder",
    "MemoryKind",
    "MemoryPoint",
    "MemoryUse",
    "PhaseSpan",
    "PhaseTime",
    "Projection",
    "PublishedComparison",
    "Quantization",
    "RecompileCost",
    "RecompileRow",
    "Recording",
    "Row",
    "SchemeTiming",
    "Selection",
    "Setup",
    "SetupPart",
    "Site",
    "SyncRow",
    "TargetInfo",
    "Timeline",
    "Timing",
    "Unseen",
    "median",
    "steady",
    "steady_per_step",
]
