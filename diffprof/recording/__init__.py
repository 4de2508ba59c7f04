"""All evidence of one scan, as plain data: `Recording`, and one module a subject for its rows.

`None` in a section means *not measured*; an empty tuple means *measured and clean*. Times are in
microseconds (`_us`) or milliseconds (`_ms`), sizes in bytes. Every section that holds figures names its
evidence grade.
"""

from diffprof.recording.graph_breaks import (
    BreakCost,
    CaptureRow,
    GraphBreakRow,
    RecompileCost,
    RecompileRow,
)
from diffprof.recording.quantization import (
    LinearRow,
    PublishedComparison,
    Quantization,
    SchemeTiming,
    Selection,
)
from diffprof.recording.row import Grade, Row
from diffprof.recording.scan import INTERRUPTED, SCHEMA, Recording
from diffprof.recording.setup import KindCosts, Projection, Setup, SetupPart
from diffprof.recording.site import Frame, Site, Unseen
from diffprof.recording.syncs import SyncRow, median, steady, steady_per_step
from diffprof.recording.target import Component, DeviceInfo, Environment, TargetInfo
from diffprof.recording.timeline import KernelKind, PhaseSpan, Timeline
from diffprof.recording.usage import GapRow, KernelRow, MemoryUse, Timing

__all__ = [
    "INTERRUPTED",
    "SCHEMA",
    "BreakCost",
    "CaptureRow",
    "Component",
    "DeviceInfo",
    "Environment",
    "Frame",
    "GapRow",
    "Grade",
    "GraphBreakRow",
    "KernelKind",
    "KernelRow",
    "KindCosts",
    "LinearRow",
    "MemoryUse",
    "PhaseSpan",
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
