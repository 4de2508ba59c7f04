"""All evidence of one scan, as plain data.

`None` in a section means *not measured*; an empty tuple means *measured and clean*. Times are in
microseconds (`_us`) or milliseconds (`_ms`), sizes in bytes. Every section that holds figures names its
evidence grade.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

SCHEMA = 1
"""Version of the stored form; a reader refuses a newer one."""


INTERRUPTED = "interrupted"
"""`Recording.failure` of a run that was stopped with Ctrl-C."""


class Grade(enum.StrEnum):
    """Where a figure comes from."""

    MEASURED = "measured"
    SIMULATED = "simulated"
    PUBLISHED = "published"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all stored rows: immutable."""


# --- what was scanned, where, and how -------------------------------------------------------------------


class Component(Row, frozen=True, kw_only=True):
    """One component of the pipeline. role: denoiser, scheduler, vae, text_encoder, tokenizer, other."""

    name: str
    role: str
    cls: str
    parameters: int | None = None
    dtype: str | None = None
    device: str | None = None
    compiled: bool = False
    config: dict[str, Any] = {}


class TargetInfo(Row, frozen=True, kw_only=True):
    """What was scanned. kind: builtin, checkpoint, factory, script, object."""

    spec: str
    kind: str
    pipeline: str
    components: tuple[Component, ...] = ()
    call: dict[str, Any] = {}
    """Call arguments as plain values; tensors and images as a short description."""
    options: dict[str, Any] = {}
    """The options with which the target can be built again (scheduler, dtype, ...)."""
    args: tuple[str, ...] = ()
    """A script's own arguments."""
    lost: tuple[str, ...] = ()
    """Options whose values could not be stored, so that the target can't be built again."""
    fixed: tuple[str, ...] = ()
    """Fixes that were applied before it was scanned, in order."""
    steps: int | None = None
    weights: str = "real"
    """real, random (small architectures), or none (shapes only)."""


class DeviceInfo(Row, frozen=True, kw_only=True):
    """Where it ran. kind: sim, cpu, cuda."""

    spec: str
    kind: str
    name: str
    grade: Grade
    memory_bytes: int | None = None
    details: dict[str, Any] = {}


class Environment(Row, frozen=True, kw_only=True):
    """Versions that the evidence depends on."""

    diffprof: str
    python: str
    packages: dict[str, str] = {}
    platform: str = ""


# --- places --------------------------------------------------------------------------------------------


class Frame(Row, frozen=True, kw_only=True):
    """One line on the call stack. file: importable path (`diffusers/schedulers/x.py`) for installed
    packages, else the path as the user would type it."""

    file: str
    line: int
    function: str
    code: str = ""


class Site(Row, frozen=True, kw_only=True):
    """The line that a person would edit, and how the run came there."""

    file: str
    line: int
    function: str
    module: str | None = None
    """Path of the nn.Module or component that was running, such as `unet.mid_block.attentions.0`."""
    user_code: bool = False
    """True if the file is the user's own, not an installed package's."""
    excerpt: tuple[tuple[int, str], ...] = ()
    """(line number, source text) around the line."""
    chain: tuple[Frame, ...] = ()
    """The frames above the site, innermost first, ending at the pipeline's caller."""


# --- syncs ---------------------------------------------------------------------------------------------


class SyncRow(Row, frozen=True, kw_only=True):
    """All blocking operations of one kind at one site."""

    kind: str
    op: str
    reason: str
    source: str
    """Where PyTorch decides that the host waits (file and function)."""
    site: Site
    phase: str
    """encode, prepare, denoise, decode or postprocess."""
    part: str | None = None
    """Within a denoising step: denoiser, scheduler, callback, or None."""
    in_loop: bool
    count: int
    per_step: float = 0.0
    """Steady state: the median count of the steps between the first and the last; 0 outside the loop."""
    by_step: tuple[int, ...] = ()
    first_step_only: bool = False
    bytes: int = 0
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    values_known: bool = True
    assumed: str | None = None
    """The value that stood in for one that nobody knows, if any."""
    owner: str | None = None
    """`object.attribute` that lives on the wrong side, where that could be told."""
    owner_device: str | None = None
    """Where that attribute lives: `cpu` or `device`."""
    index: str | None = None
    """The device tensor that indexes a host table, as written at the site."""
    offload: bool = False
    """A hook of an offloading scheme moved it."""
    constant: bool | None = None
    """Whether every copy from this site carried the same bytes; None: once only, or too large to tell."""
    blocked_us: float | None = None
    """Host time spent in these waits, where a clock saw them."""
    witnesses: tuple[str, ...] = ()
    """Instruments that saw it: `dispatch`, `set_sync_debug_mode`, `trace`."""


def steady_per_step(rows: Iterable[SyncRow]) -> float:
    """Blocking operations in a step once the loop runs steadily: the median, over the steps between the
    first and the last, of what all these rows together do in a step."""
    steps: list[int] = []
    for row in rows:
        steps += [0] * (len(row.by_step) - len(steps))
        for step, count in enumerate(row.by_step):
            steps[step] += count
    return median(steady(steps)) if steps else 0.0


def steady(steps: Sequence[int]) -> Sequence[int]:
    """The steps between the first and the last; of two steps the second, of one that one."""
    return steps[1:-1] or steps[1:] or steps


def median(values: Iterable[float]) -> float:
    """The middle value, or the mean of the two in the middle. (`statistics` takes 20 ms to import.)"""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


class Unseen(Row, frozen=True, kw_only=True):
    """Something the probes passed over, and why: a compiled part, a custom op, a device branch."""

    what: str
    why: str
    site: Site | None = None
    kind: str = "gap"
    """gap (no evidence there), branch (other side taken than on CUDA), value (invented values followed)."""


# --- time ----------------------------------------------------------------------------------------------


class PhaseSpan(Row, frozen=True, kw_only=True):
    """One phase of the call in host order: events [first, last) of the timeline."""

    name: str
    step: int | None = None
    part: str | None = None
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


class Timeline(Row, frozen=True, kw_only=True):
    """Two lanes in a form that can be run again with parts left out (see `diffprof.timeline`).

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
    """Index into Recording.syncs, or -1 when the event does not block the host; -2 blocks without a row."""
    launch_latency_us: float = 0.0
    sync_latency_us: float = 0.0
    pending_limit: int = 1024
    """Launches that may be queued before the host has to wait (CUDA's launch queue depth)."""
    eager_kernels: int | None = None
    """Of a compiled run: kernels that the same call launches when it runs eagerly."""


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
    """The runtime call or op that the host was in for most of it, such as `cudaFree of aten::conv2d`."""
    site: Site | None = None
    sync: int | None = None
    count: int = 1
    """Gaps summed up in this row; start_us is the first one's."""

    @property
    def is_head(self) -> bool:
        """Whether it lies before the device's first work."""
        return self.after is None and self.before is not None


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


class Timing(Row, frozen=True, kw_only=True):
    """Clean wall-clock passes. seconds: every pass; compiled/eager in mode."""

    grade: Grade
    mode: str = "eager"
    seconds: tuple[float, ...] = ()
    median: float | None = None
    spread: float | None = None
    """Half the interquartile range, seconds."""
    device_busy: float | None = None
    """Share of the call's wall time in which the device worked, 0..1."""


# --- quantization --------------------------------------------------------------------------------------


class SchemeTiming(Row, frozen=True, kw_only=True):
    """One linear under one quantization scheme, next to the original dtype timed in the same rounds.

    Times are of one call in microseconds, activation quantization included.
    """

    scheme: str
    mode: str = "eager"
    """eager, or compiled (`torch.compile` of the layer)."""
    grade: Grade
    original_us: float | None = None
    median_us: float | None = None
    spread_us: float | None = None
    """Half the interquartile range."""
    gain_us: float | None = None
    """Median of original minus scheme, round by round."""
    gain_spread_us: float | None = None
    """Half the interquartile range of that difference; a smaller gain is no clear gain."""
    rounds: int = 0
    rows: int | None = None
    """Rows of the activation that were timed; fewer than M where a slice had settled it."""
    sqnr_db: float | None = None
    """Lowest signal-to-quantization-noise ratio among the layers of the shape."""
    why_not: str | None = None
    """Why it is not available here (unsupported, out of memory, raised, not a number)."""
    cached: bool = False

    @property
    def speedup(self) -> float | None:
        """Original time over this one."""
        if self.original_us is None or not self.median_us:
            return None
        return self.original_us / self.median_us


class LinearRow(Row, frozen=True, kw_only=True):
    """All linears, and 1x1 convolutions that could be one, that see the same (M, K, N) and dtype."""

    m: int
    """Rows of the activation: the product of all its dimensions but the features."""
    in_features: int
    out_features: int
    dtype: str
    bias: bool = False
    kind: str = "linear"
    """linear or conv1x1."""
    modules: tuple[str, ...] = ()
    """Qualified names, component first: `unet.mid_block.attentions.0.proj_in`."""
    count: int = 0
    """Calls in one pipeline call, over all modules."""
    per_step: float = 0.0
    """Median calls of a denoising step."""
    by_step: tuple[int, ...] = ()
    """Calls in each denoising step."""
    phases: dict[str, int] = {}
    """Calls by phase."""
    share: float | None = None
    """Of the device time of one pipeline call, 0..1, as it ran."""
    adapter: bool = False
    """Part of a LoRA adapter, not of the model."""
    quantized: str | None = None
    """How the weights are stored already, if quantized."""
    timings: tuple[SchemeTiming, ...] | None = None
    """None: not timed (`left_out` of the choice says why)."""
    scheme: str | None = None
    """The best scheme that was timed."""
    worth_it: bool | None = None
    """Whether the choice quantizes it; None: not judged."""
    why: str = ""
    sqnr_db: dict[str, float] = {}
    """Module -> signal-to-quantization-noise ratio under `scheme`."""
    published: bool | None = None
    """Whether the published hand-made list quantizes this (K, N); None: it never saw it."""

    def timing(self, scheme: str | None, mode: str) -> SchemeTiming | None:
        """The timing of a scheme in a mode, if there is one."""
        for each in self.timings or ():
            if each.scheme == scheme and each.mode == mode:
                return each
        return None


class Selection(Row, frozen=True, kw_only=True):
    """The layers of one component that the choice quantizes with one scheme, and how to write that."""

    component: str
    scheme: str
    modules: tuple[str, ...]
    """Names within the component, as `named_modules` gives them at inventory."""
    config: str
    """The scheme's configuration as Python source."""
    filter_source: str
    """Python source of a function `filter_fn(module, fqn)`."""
    snippet: str
    """Python source that quantizes a pipeline called `pipe`, in the right order."""
    fqn_to_config: str | None = None
    """torchao's FqnToConfig as Python source; None for schemes that are not torchao's."""
    torchao_config: str | None = None
    """diffusers' TorchAoConfig as Python source, where loading can express it."""
    no_torchao_config: str | None = None
    """Why not, where it can't."""
    saves_ms: float = 0.0
    saves_bytes: int = 0


class PublishedComparison(Row, frozen=True, kw_only=True):
    """The choice beside a published hand-made list, over distinct (K, N) of the denoiser and the VAE."""

    source: str
    setup: str
    agreed: tuple[tuple[int, int], ...] = ()
    """Quantized by both."""
    only_ours: tuple[tuple[int, int], ...] = ()
    only_published: tuple[tuple[int, int], ...] = ()
    precision: float | None = None
    recall: float | None = None
    precision_by_time: float | None = None
    """The same with each layer weighted by the time that it takes unquantized."""
    recall_by_time: float | None = None
    saves_ms: float | None = None
    """What the published list would save here by the same timings."""
    published_gain: float | None = None
    """The end-to-end gain that its authors published, 0..1."""


class Quantization(Row, frozen=True, kw_only=True):
    """The choice: which linears to quantize how, what that gains, and what could not be told."""

    grade: Grade
    mode: str
    """The mode whose timings decide: eager or compiled."""
    min_sqnr_db: float
    accuracy: str
    """What the SQNR was measured on: activations of the call, or a stated distribution."""
    selections: tuple[Selection, ...] = ()
    script: str | None = None
    """Python source that applies all selections to a pipeline called `pipe`, in the known order."""
    saves_ms: float = 0.0
    """Per pipeline call, predicted from the timings of the layers."""
    saves_bytes: int = 0
    """Of weights."""
    call_ms: float | None = None
    """Device time of one pipeline call, as it ran."""
    fused_qkv: bool = False
    swapped_convs: bool = False
    adapters: bool = False
    """LoRA adapters were attached, not fused."""
    budget_s: float | None = None
    spent_s: float | None = None
    left_out: tuple[str, ...] = ()
    """What the time budget did not reach."""
    unavailable: dict[str, str] = {}
    """Scheme -> why it is not available on this device."""
    disorder: tuple[str, ...] = ()
    """Signs that the known order of changes was not kept."""
    notes: tuple[str, ...] = ()
    """What was assumed that nobody asked for."""
    published: PublishedComparison | None = None


# --- graph breaks and recompiles -----------------------------------------------------------------------


class CaptureRow(Row, frozen=True, kw_only=True):
    """What `torch.compile` made of one component (or of the scheduler's step, the loop's body, the call).

    Captured by Dynamo alone, with the first inputs of the call, on CPU tensors without content.
    """

    component: str
    graphs: int = 0
    """Distinct graphs; 1 and no breaks is what `fullgraph=True` asks for."""
    ops: int = 0
    """Call nodes of all graphs."""
    breaks: int = 0
    fullgraph_ready: bool = False
    calls: int = 1
    """Per pipeline call."""
    per_step: float = 0.0
    regions_per_call: int | None = None
    """Graphs run in one call of the component: what is launched apart."""
    folded: dict[str, int] = {}
    """Equal blocks captured once: class -> how many."""
    tried: tuple[str, ...] | None = None
    """Changes under which it was called again with the same compiled code: `within one call` and the
    variations. What made it compile again is in Recording.recompiles. None: it was not called again."""
    seconds: float = 0.0
    cached: bool = False
    failure: str | None = None
    """Why it could not be captured, or not to the end."""


class BreakCost(Row, frozen=True, kw_only=True):
    """What one break costs: the call modelled on the simulated GPU as if compiled into CUDA graphs, with the
    break and without it, all others in their place. Per pipeline call."""

    saves_ms: float
    """End to end."""
    blocked_ms: float = 0.0
    """Of the host, by the wait on the same line; 0: no wait comes with it."""
    graphs: int = 0
    """CUDA graphs more to launch."""
    kernels: int = 0
    """Kernels more, for what is not fused across the border."""
    call_ms: float
    """The whole call with all breaks."""
    together_ms: float | None = None
    """End to end, without any break of what is compiled there: one alone may hide behind the others."""
    compiled: tuple[str, ...] = ()
    """What is compiled in that model."""
    grade: Grade = Grade.SIMULATED


class GraphBreakRow(Row, frozen=True, kw_only=True):
    """One distinct graph break: one cause on one line."""

    component: str
    code: str | None
    """Dynamo's `GB####`, from the registry of the installed torch; None for a cause that is not in it."""
    cause: str
    """Title of the cause, as in the registry."""
    explanation: str = ""
    hints: tuple[str, ...] = ()
    context: str = ""
    """What Dynamo met, in its own terms."""
    site: Site
    raised_at: Frame | None = None
    """The innermost line, where it is in a library below the site."""
    in_hook: bool = False
    """The innermost line is in a forward hook."""
    count: int | None = None
    """Times that the line is passed in one pipeline call; None where that could not be counted."""
    per_step: float | None = None
    modules: tuple[str, ...] = ()
    """Modules whose call comes there."""
    skipped_frame: str | None = None
    """The function that ran as plain Python because Dynamo can't resume in it, or `the rest of` one, from the
    line of an earlier break on: what it calls is still compiled, what stands in it is not."""
    hidden_by: str | None = None
    """Dynamo does not come there as long as the break on that line skips the function."""
    graphs: int = 0
    """Graphs that end at this break."""
    ops: int = 0
    """Call nodes of these graphs."""
    cost: BreakCost | None = None
    uncosted: str = ""
    """Why there is no cost."""
    grade: Grade


class RecompileCost(Row, frozen=True, kw_only=True):
    """What one compile more costs: host time, once in a process for each new case, in the call that meets it
    first. None: not known.
    """

    capture_ms: float | None = None
    """Dynamo's part of one compile, by the clock of the machine that scanned. Measured."""
    from_blocks: bool = False
    """Equal blocks were timed once each, and that times their number is in `capture_ms`."""
    compile_ms: float | None = None
    """One compile with its backend, as the pipeline's own compiled code took in the process of the scan; of
    the call as it was, not as varied. Measured. None: the component was not compiled there."""
    eager_ms: float | None = None
    """Beyond the recompile limit: the pipeline call with this component as plain Python, the others compiled.
    Simulated. None: the limit is not reached, or nothing models the call."""
    compiled_ms: float | None = None
    """The same call with it compiled."""
    unpriced: str = ""
    """Why there is no `eager_ms`, where the limit is reached."""


class RecompileRow(Row, frozen=True, kw_only=True):
    """One guard that failed, so that a frame was compiled again."""

    component: str
    guard: str
    """The condition that no longer held, as Dynamo words it."""
    site: Site
    """The function that was compiled again, or the line that made the guard where that is known."""
    kind: str = "other"
    """shape, scalar, identity, global, type, mode or other: what the guard looks at."""
    variation: str
    """What changed: `height=768`, or `within one call`."""
    count: int
    """Compiles, in the first pipeline call of a process with that change."""
    stopped_by: tuple[str, ...] = ()
    """Settings under which it did not recompile, each tried: dynamic=True, mark_dynamic,
    use_duck_shape=False."""
    tried: tuple[str, ...] = ()
    marked: dict[str, tuple[int, ...]] = {}
    """What mark_dynamic was tried on: argument, such as `sample` or `added_cond_kwargs['time_ids']` -> its
    dimensions that changed."""
    limit_hit: bool = False
    """The recompile limit was reached: later inputs run as plain Python."""
    refused: tuple[str, ...] = ()
    """Variations that did, for they came after it."""
    entries: int | None = None
    """Compiled versions of the function in the end."""
    limit: int | None = None
    cost: RecompileCost | None = None
    grade: Grade


# --- setup ---------------------------------------------------------------------------------------------


class SetupPart(Row, frozen=True, kw_only=True):
    """How one model of the pipeline is set up. Counts are of modules; None: the model has no such switch."""

    name: str
    role: str
    dtypes: dict[str, int] = {}
    """Bytes of parameters by type."""
    convs: int = 0
    """Two-dimensional convolutions."""
    convs_channels_last: int = 0
    """Those whose weights are stored with the channels innermost."""
    linears: int = 0
    quantized: int = 0
    """Modules with quantized weights."""
    attention: dict[str, int] = {}
    """Attention processors by class."""
    unfused: dict[str, str] = {}
    """Processors that compute scores, softmax and product apart: class -> the class beside it that uses
    scaled_dot_product_attention, empty where there is none."""
    dispatched: bool = False
    """Attention goes through diffusers' dispatcher, whose backend can be chosen."""
    backend: str | None = None
    """The backend that was chosen there."""
    fusable: int | None = None
    """Attention modules whose projections can be fused and are not."""
    adapted: int = 0
    """Layers with LoRA adapters around them that are not merged."""
    tiling: bool | None = None
    slicing: bool | None = None
    force_upcast: bool = False
    """The configuration says that it overflows in float16."""
    compiled: str | None = None
    """whole, regional (only blocks), or None."""
    repeated: tuple[str, ...] = ()
    """Classes of blocks that `compile_repeated_blocks` compiles, as the model names them."""
    hooks: tuple[str, ...] = ()
    """Offloading hooks on the model: cpu-offload, sequential, group."""
    cacheable: bool = False
    """It takes diffusers' caches between steps (`enable_cache`)."""
    cache: str | None = None
    """The one that is enabled."""


class Projection(Row, frozen=True, kw_only=True):
    """Linears, or 1x1 convolutions that could be, of one component and shape with alike names, and what INT8
    would make of them."""

    component: str
    pattern: str
    """Names within the component, `*` for every index."""
    in_features: int
    out_features: int
    rows: int
    """Of the activation."""
    count: int
    """Calls in one pipeline call."""
    now_us: float
    """All calls, in half precision."""
    int8_us: float
    """Quantized dynamically, quantizing the activation included."""
    kind: str = "linear"
    """linear or conv1x1."""


class KindCosts(Row, frozen=True, kw_only=True):
    """What the same operations would cost under another setup. Columns run along `Timeline.kinds`: device
    time of one call of the kind; changes build on each other in the order half, sdpa, qkv, compiled, int8, so
    that each column is to be read as a ratio to the one before."""

    grade: Grade
    half: str = "bfloat16"
    """The type that stands for half precision."""
    now_us: tuple[float, ...] = ()
    half_us: tuple[float, ...] = ()
    sdpa_us: tuple[float, ...] = ()
    """Attention in one kernel."""
    qkv_us: tuple[float, ...] = ()
    """Query, key and value projected together."""
    compiled_us: tuple[float, ...] = ()
    compiled_host_left: float = 1.0
    """Share of the host time of launching the compiled components' kernels that is left as a graph."""
    int8_us: tuple[float, ...] = ()
    projections: tuple[Projection, ...] = ()


class Setup(Row, frozen=True, kw_only=True):
    """How the pipeline and the process are set up."""

    parts: tuple[SetupPart, ...] = ()
    matmul_tf32: bool = False
    conv_tf32: bool = True
    inductor: dict[str, bool] = {}
    """Inductor's flags of the published recipe, as they are; empty where nothing is compiled."""
    progress_bar: bool | None = None
    """Whether one is drawn; None: the pipeline has none."""
    fuses_qkv: bool = False
    """The pipeline itself has `fuse_qkv_projections`."""
    fuses_lora: bool = False
    """The pipeline itself has `fuse_lora`."""
    upcasts_vae: bool = False
    """The pipeline turns a VAE that overflows in float16 to float32 for decoding."""
    adapters: tuple[str, ...] = ()
    """Names of the active LoRA adapters."""
    offload: str | None = None
    """model, sequential or group: how the weights are kept off the device."""
    guided: bool | None = None
    """Classifier-free guidance doubles the batch."""
    packages: tuple[str, ...] = ()
    """Attention libraries that are installed."""
    costs: KindCosts | None = None
    """None: not known before it is tried."""


# --- the whole -----------------------------------------------------------------------------------------


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
    memory: MemoryUse | None = None
    linears: tuple[LinearRow, ...] | None = None
    quantization: Quantization | None = None
    captures: tuple[CaptureRow, ...] | None = None
    graph_breaks: tuple[GraphBreakRow, ...] | None = None
    recompiles: tuple[RecompileRow, ...] | None = None
    setup: Setup | None = None
    trace_file: str | None = None
    """Kineto-style trace beside the stored report, relative path."""
