"""The one event model: what is in a trace, whoever wrote it, and what its names mean.

Real (CUDA, ROCm), older Kineto, CPU-only and simulated traces all end up in the same columns.
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np


class EventTable(enum.IntEnum):
    """Where an event goes."""

    IGNORED = 0
    OP = 1
    """An op of PyTorch on the CPU (`cpu_op`)."""
    ANNOTATION = 2
    """A `record_function` region on the CPU."""
    CALL = 3
    """A runtime or driver call: launches, copies, waits."""
    KERNEL = 4
    COPY = 5
    SET = 6
    WAIT = 7
    """Kineto's `cuda_sync`: a wait as the device's track shows it."""
    DEVICE_ANNOTATION = 8
    FRAME = 9
    """A Python function or nn.Module (`with_stack=True`)."""
    MEMORY = 10
    FLOW_START = 11
    FLOW_END = 12
    META = 13
    BEGIN = 14
    END = 15
    UNKNOWN = 16


_CATEGORIES = {
    "cpu_op": EventTable.OP,
    "operator": EventTable.OP,
    "user_annotation": EventTable.ANNOTATION,
    "cuda_runtime": EventTable.CALL,
    "cuda_driver": EventTable.CALL,
    "hip_runtime": EventTable.CALL,
    "hip_driver": EventTable.CALL,
    "runtime": EventTable.CALL,
    "privateuse1_runtime": EventTable.CALL,
    "privateuse1_driver": EventTable.CALL,
    "glow_runtime": EventTable.CALL,
    "mtia_runtime": EventTable.CALL,
    "xpu_runtime": EventTable.CALL,
    "xpu_driver": EventTable.CALL,
    "xpu_sync": EventTable.CALL,
    "kernel": EventTable.KERNEL,
    "gpu_memcpy": EventTable.COPY,
    "memcpy": EventTable.COPY,
    "gpu_memset": EventTable.SET,
    "memset": EventTable.SET,
    "mtia_ccp_events": EventTable.KERNEL,
    "cuda_sync": EventTable.WAIT,
    "gpu_user_annotation": EventTable.DEVICE_ANNOTATION,
    "python_function": EventTable.FRAME,
    "cpu_instant_event": EventTable.IGNORED,
    "trace": EventTable.IGNORED,
    "overhead": EventTable.IGNORED,
    "fwdbwd": EventTable.IGNORED,
    "forward_backward": EventTable.IGNORED,
}
"""Kineto's categories (libkineto/include/ActivityType.h, lower case), today's and older ones."""

_OTHER_CATEGORIES = (
    (re.compile(r"_(?:runtime|driver)$"), EventTable.CALL),
    (re.compile(r"_kernels?$"), EventTable.KERNEL),
    (re.compile(r"_memcpy$"), EventTable.COPY),
    (re.compile(r"_memset$"), EventTable.SET),
)
"""What other accelerators' profilers call what Kineto calls `cuda_runtime`, `kernel`, ..."""

IDLE_WORK = frozenset({"event_wait", "event_record"})
"""What MTIA's command processor tells beside work: a queue that waits for another does nothing."""


@functools.lru_cache(maxsize=1024)
def _table_of_category(category: str) -> EventTable | None:
    known = _CATEGORIES.get(category)
    if known is not None:
        return known
    return next((table for pattern, table in _OTHER_CATEGORIES if pattern.search(category)), None)


ACCELERATORS = {
    "cuda": "CUDA",
    "hip": "HIP",
    "xpu": "XPU",
    "npu": "NPU",
    "mtia": "MTIA",
    "glow": "Glow",
    "privateuse1": "PrivateUse1",
}
"""Runtimes by what their categories begin with, in the words of their makers."""


def accelerator_of(category: str) -> str | None:
    """The runtime that a category of calls or device work names, as it begins: cuda, hip, mtia, ...; None for
    categories of the CPU, and for those of every GPU, such as `kernel`."""
    category = category.lower()
    if _table_of_category(category) not in (
        EventTable.CALL,
        EventTable.KERNEL,
        EventTable.COPY,
        EventTable.SET,
    ):
        return None
    first, _, rest = category.partition("_")
    return first if rest and first != "gpu" else None


_FLOWS = ("ac2g", "async_cpu_to_gpu", "async_gpu")


def table_of(ph: str, category: str | None) -> EventTable:
    """The table for an event's phase letter and category."""
    category = (category or "").lower()
    if ph == "X":
        return _table_of_category(category) or EventTable.UNKNOWN
    if ph == "M":
        return EventTable.META
    if ph in ("s", "f"):
        if category not in _FLOWS:
            return EventTable.IGNORED
        return EventTable.FLOW_START if ph == "s" else EventTable.FLOW_END
    if ph in ("B", "E"):
        known = _table_of_category(category) or (EventTable.UNKNOWN if category else EventTable.BEGIN)
        if known == EventTable.IGNORED:
            return known
        return EventTable.BEGIN if ph == "B" else EventTable.END
    if ph in ("i", "I") and category in ("cpu_instant_event", ""):
        return EventTable.MEMORY
    return EventTable.IGNORED


def is_known(category: str | None) -> bool:
    """Whether the category is one of Kineto's."""
    return _table_of_category((category or "").lower()) is not None


class Detail(NamedTuple):
    """Distinct arguments of an op: shapes and types as JSON text, and the stack of older profiles."""

    shapes: bytes
    dtypes: bytes
    stack: str


@dataclass
class Spans:
    """Events of one table as columns, sorted by start. Columns that a table lacks are empty.

    ts: microseconds since the trace's origin. name: index into Trace.names. track: index into Trace.tracks.
    Missing ids are -1.
    """

    ts: np.ndarray = field(default_factory=lambda: np.empty(0))
    dur: np.ndarray = field(default_factory=lambda: np.empty(0))
    name: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    track: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    correlation: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    external: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    stream: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    device: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    bytes: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    detail: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    table: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))

    def __len__(self) -> int:
        return len(self.ts)

    @property
    def end(self) -> np.ndarray:
        return self.ts + self.dur


@dataclass
class Memory:
    """Allocator events: bytes allocated on a device after each. device -1 is the CPU."""

    ts: np.ndarray
    allocated: np.ndarray
    device: np.ndarray


@dataclass
class Trace:
    """A trace in memory: columns, not events."""

    path: Path
    meta: dict[str, object]
    """The file's own metadata: deviceProperties, distributedInfo, diffprof, ..."""
    origin_us: float
    """What `ts` 0 is on the trace's own clock."""
    names: list[str]
    tracks: list[tuple[object, object]]
    """(pid, tid) as written."""
    details: list[Detail]
    ops: Spans
    annotations: Spans
    calls: Spans
    work: Spans
    """Kernels, copies and memsets; `table` tells which."""
    waits: Spans
    device_annotations: Spans
    frames: Spans
    memory: Memory
    labels: dict[object, str]
    """pid -> label, such as `GPU 0`."""
    threads: dict[tuple[object, object], str]
    events: int
    """Events read, of any kind."""
    json_bytes: int
    categories: dict[str, int]
    """Events by category as written."""
    truncated: str | None = None
    damaged: int = 0
    unclosed: int = 0
    """Begin events without an end."""
    lengthless: int = 0
    """Events whose length is missing, negative, or more than a clock can tell: it is 0 in the columns."""

    def name(self, spans: Spans, row: int) -> str:
        """The name of a row."""
        return self.names[int(spans.name[row])]

    @property
    def simulated(self) -> bool:
        """Whether diffprof wrote the trace from its simulated device."""
        marker = self.meta.get("diffprof")
        return isinstance(marker, dict) and marker.get("grade") == "simulated"


# --- what runtime calls mean -----------------------------------------------------------------------------

_PREFIX = r"^(?:AscendCL@)?(?:cuda|cu|hip|mu|mua|musa|xpti|aclrt|ur|pi|ze)_?"
_LAUNCH = re.compile(
    _PREFIX + r"(?:ExtModule|Module|Cooperative|Ext|CommandListAppend|EnqueueKernel)?"
    r"(?:Launch(?!HostFunc)\w*|GraphLaunch\w*|ExtLaunch\w*)$",
    re.IGNORECASE,
)
_COPY = re.compile(
    _PREFIX + r"(?:Mem(?:cpy|set)|EnqueueUSM(?:Memcpy|Fill)|EnqueueMem\w*(?:Copy|Read|Write|Fill)"
    r"|CommandListAppendMemory(?:Copy|Fill))\w*$",
    re.IGNORECASE,
)
_SYNCHRONIZE = re.compile(r"synchroni[sz]e|" + _PREFIX + r"(?:QueueFinish|Events?Wait)$", re.IGNORECASE)
"""Whatever the runtime (cudaStreamSynchronize, aclrtSynchronizeDevice, zeEventHostSynchronize, MTIA's
synchronizeStream); oneAPI's adapters have words of their own. A `StreamWaitEvent` makes the device wait."""
_FREE = re.compile(_PREFIX + r"(?:Mem)?Free(?:Array|Host|_v2)?$", re.IGNORECASE)
_CAPTURE = re.compile(_PREFIX + r"(?:StreamEndCapture|GraphInstantiate)\w*$", re.IGNORECASE)


class CallKind(enum.Enum):
    """What a runtime or driver call does to the CPU."""

    LAUNCH = "launch"
    COPY = "copy"
    """Enqueues a copy or memset and returns."""
    BLOCKING_COPY = "blocking copy"
    WAIT = "wait"
    FREE = "free"
    """Releases device memory, which waits for the device."""
    OTHER = "other"

    @property
    def blocks(self) -> bool:
        return self in (CallKind.BLOCKING_COPY, CallKind.WAIT, CallKind.FREE)


def call_kind(name: str) -> CallKind:
    """Classify a runtime or driver call by its name, CUDA's or HIP's."""
    if _SYNCHRONIZE.search(name):
        return CallKind.WAIT
    if _COPY.match(name):
        lowered = name.lower()
        if any(word in lowered for word in ("async", "memset", "enqueue", "append")):
            return CallKind.COPY
        return CallKind.BLOCKING_COPY
    if _LAUNCH.match(name):
        return CallKind.LAUNCH
    if _FREE.match(name):
        return CallKind.FREE
    return CallKind.OTHER


def captures_graph(name: str) -> bool:
    """Whether a runtime call ends the capture of a CUDA (or HIP) graph."""
    return bool(_CAPTURE.match(name))


_SCOPES = (
    ("stream", re.compile(r"stream|queue|commandlist", re.IGNORECASE)),
    ("event", re.compile(r"event|fence", re.IGNORECASE)),
)


def wait_scope(name: str) -> str:
    """What a waiting call waits for: stream (or queue), event or device."""
    return next((scope for scope, pattern in _SCOPES if pattern.search(name)), "device")


_COPY_NAME = re.compile(r"Mem(?:cpy|set)\s+(\w+)?(?:.*\((\w+)\s*->\s*(\w+)\))?", re.IGNORECASE)


_INTEL_WAYS = {"m2d": "h2d", "d2m": "d2h", "m2m": "h2h", "m2h": "h2h", "h2m": "h2h"}


def copy_direction(name: str) -> tuple[str, bool | None]:
    """Which way, and whether the CPU's side is pageable (None if not told).

    The way is h2d, d2h, d2d, p2p, h2h, set or copy. Reads Kineto's names, such as
    `Memcpy HtoD (Pageable -> Device)`; those of Intel's GPUs call pageable memory M, `Memcpy M2D (Memory ->
    Device)`.
    """
    if name.lower().startswith("memset"):
        return "set", None
    found = _COPY_NAME.match(name)
    if not found:
        return "copy", None
    kind = (found.group(1) or "").lower().replace("to", "2")
    if "m" in kind:
        return _INTEL_WAYS.get(kind, "copy"), True
    direction = kind if kind in ("h2d", "d2h", "d2d", "h2h") else "p2p" if "ptop" in name.lower() else "copy"
    sides = [side.lower() for side in found.group(2, 3) if side]
    if "pageable" in sides:
        return direction, True
    if "pinned" in sides or "managed" in sides:
        return direction, False
    return direction, None


# --- annotations -----------------------------------------------------------------------------------------

PHASE_PREFIX = "diffprof::"
"""diffprof's own phases: `diffprof::encode`, `diffprof::denoise[3]`, `diffprof::denoise[3]/scheduler`."""

MODULE_PREFIX = "diffprof::module:"
"""diffprof's own module annotations: `diffprof::module:unet.mid_block.attentions.0`."""

_PHASE = re.compile(r"^diffprof::(?!module:)(\w+)(?:\[(\d+)\])?(?:/(\w+))?(?:@(.+))?$")
_STEP = re.compile(r"^ProfilerStep#(\d+)$")


class CallPart(NamedTuple):
    """A part of the call. step: number of the denoising step; part: denoiser, scheduler, ...; block: the
    innermost one, of a pipeline that is made of blocks."""

    name: str
    step: int | None = None
    part: str | None = None
    block: str | None = None


def phase_label(phase: CallPart) -> str:
    """The annotation for a phase; `parse_phase` reads it back."""
    step = f"[{phase.step}]" if phase.step is not None else ""
    part = f"/{phase.part}" if phase.part else ""
    block = f"@{phase.block}" if phase.block else ""
    return f"{PHASE_PREFIX}{phase.name}{step}{part}{block}"


def parse_phase(label: str) -> CallPart | None:
    """The phase that one of diffprof's annotations names, or None."""
    found = _PHASE.match(label)
    if not found:
        return None
    name, step, part, block = found.groups()
    return CallPart(name, int(step) if step else None, part, block)


def profiler_step(label: str) -> int | None:
    """The number of a `ProfilerStep#N` annotation, or None."""
    found = _STEP.match(label)
    return int(found.group(1)) if found else None


# --- kernels ---------------------------------------------------------------------------------------------

_KERNEL_FAMILIES = (
    ("attention", r"flash_?(fwd|bwd|attn|attention)|fmha|attention|sdpa|splitkv|aotriton|attn_fwd|flex_dec"),
    ("conv", r"conv(olution|olve|_|\d)|cudnn.*(dgrad|wgrad|fprop)|implicit_gemm|dgrad|wgrad|fprop"),
    ("conv", r"winograd|miopen|im2col|igemm_?(fwd|bwd|wrw)|nhwcAddPadding"),
    ("gemm", r"gemm|gemv|cutlass|cublas|Cijk_|nvjet|matmul|wgmma|splitK|dot_kernel|reduce_1Block"),
    ("gemm", r"(?:^|_)(?:add|b|badd|int|scaled|grouped|mixed|persistent|tma)?_?b?mm(?![a-z])"),
    ("gemm", r"(?:f4|f8|i4|i8|fp8|bf16|f16){2,}|marlin|ws_persistent"),
    ("norm", r"(layer|group|batch|rms)_?norm|RowwiseMoments|GammaBeta|bn_(fw|bw)|native_norm"),
    ("norm", r"ComputeInternalGradients|ComputeFusedParams"),
    ("copy", r"direct_copy|CatArray|copy_device_to_device|nchwToNhwc|nhwcToNchw|transpose|\b_?copy_kernel"),
    ("sort", r"sort|topk|RadixSelect|bitonic|DeviceScan|\bscan\b|cumsum|cumprod|unique|DeviceSelect|nonzero"),
    ("fft", r"fft"),
    ("reduction", r"reduce|softmax|argmax|argmin|_red_|triton_red|triton_per|\bnorm\b|welford"),
    ("memset", r"memset"),
    ("pointwise", r"elementwise|triton_poi|pointwise|distribution_|fill|Functor|upsample|pool|index|gather"),
    ("pointwise", r"scatter|embedding|dropout|gelu|silu|cast|quant"),
)
"""By kernel names of ATen, cuBLAS, cuDNN, CUTLASS, hipBLASLt, MIOpen, Triton and inductor."""

_OP_FAMILIES = (
    ("attention", r"scaled_dot_product|attention"),
    ("conv", r"conv"),
    ("gemm", r"\b(add|b|badd|)(b?)mm\b|_mm(_v\d+)?\b|matmul|linear\b|addmv|\bmv\b|\bdot\b|einsum"),
    ("gemm", r"(?:f4|f8|i4|i8|fp8|bf16|f16){2,}|gemm"),
    ("norm", r"_norm\b|batch_norm|_norm_"),
    ("copy", r"copy|\bclone|contiguous|\bcat\b|\bstack\b"),
    ("sort", r"sort|topk|cumsum|cumprod|unique|nonzero|masked_select"),
    ("fft", r"fft"),
    ("reduction", r"softmax|sum\b|mean\b|max\b|min\b|argm|\bany\b|\ball\b|\bnorm\b|\bstd|\bvar"),
    ("memset", r"\bzero_?\b|\bfill_?\b"),
    (
        "pointwise",
        r"\b(add|sub|mul|div|pow|exp|log|sqrt|rsqrt|sin|cos|tanh|sigmoid|silu|gelu|relu|clamp)_?\b",
    ),
    (
        "pointwise",
        r"where|index|gather|scatter|embedding|upsample|randn|uniform|neg|abs|round|\b(eq|ne|lt|gt)\b",
    ),
)

_BY_KERNEL = tuple((family, re.compile(text, re.IGNORECASE)) for family, text in _KERNEL_FAMILIES)
_BY_OP = tuple((family, re.compile(text)) for family, text in _OP_FAMILIES)


_GENERATED = re.compile(r"triton_(poi|red|per|for)_fused")
"""Kernels that Inductor generates. A name lists the operators whose pointwise parts the kernel holds: a
product or convolution among these ran in a kernel before. Only templates (`triton_tem`, `triton_mm`) are
products."""
_NOT_GENERATED = ("gemm", "conv", "attention")


def kernel_family(name: str, op: str = "") -> str:
    """The family of a kernel by its name, then by its op's; `other` if neither tells."""
    left_out = _NOT_GENERATED if _GENERATED.match(name) else ()
    for text, patterns in ((name, _BY_KERNEL), (op, _BY_OP)):
        for family, pattern in patterns:
            if family in left_out:
                continue
            if text and pattern.search(text):
                return family
    return "other"
