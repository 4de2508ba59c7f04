"""KRN: where device time goes (here), why the device idles (idle_rules), its memory (memory_rules),
and lines that launch one operation after the other (line_rules)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from diffprof.analyzers.kernels import idle_rules, line_rules, memory_rules
from diffprof.analyzers.kernels.findings import (
    MOST_OF_IT,
    loop_finding,
    most_of,
    of_offloading,
    often,
    waiting_lines,
)
from diffprof.analyzers.kernels.idle_rules import GAP_US
from diffprof.analyzers.kernels.loop import LoopTimes, milliseconds
from diffprof.judge.rules import NoEvidence, rule
from diffprof.judge.setup_costs import best_share, compile_fixes, saved_ms
from diffprof.judge.setup_costs import evidence as changed
from diffprof.judge.steps import phase_of_events
from diffprof.judge.timeline import Without, columns_of, saved_us
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import Change, Grade, KernelKind, LineRow, Recording, Site, Timeline
from diffprof.model.units import place

__all__ = ["idle_rules", "line_rules", "memory_rules"]

SCHEDULER_SHARE = 0.05
"""Share of a step that `scheduler.step` may take: the guide calls 1 % healthy and over 5 % not."""

DEVICE_SHARE = 0.02
"""Share of all device time from which a kind of kernel is worth a finding."""

GAINS = 0.001
"""Share of the call that another layout has to save to be worth a finding, where that is known."""

SAME_KERNELS = 0.9
"""A compiled run with more than this share of the eager run's kernels was hardly fused."""

LAYOUT = re.compile(r"nchwToNhwc|nhwcToNchw|nchw2nhwc|nhwc2nchw", re.IGNORECASE)
CAST = re.compile(r"^cast_|(?:b?float16|float)_copy_kernel|_to_copy_cast")
ASKS_FOR_TYPE = re.compile(r"\.(?:float|half|double|bfloat16|to|type|type_as)\(|dtype=")
"""A line that changes the type of a tensor by itself: none of a product, which autocast or weights of another
type make a cast at."""
WRITTEN_CASTS = (
    "The code of the model asks for these casts, whatever type it is loaded in: compile it, and they become "
    "part of the kernels around them."
)
SOFTMAX = re.compile(r"(?<!log)(?<!log_)softmax", re.IGNORECASE)
"""Not the logarithm of a softmax, which is a loss."""
BATCHED = re.compile(r"^(?:aten::)?(?:bmm|baddbmm)$")
FULL_FP32 = re.compile(r"sgemm|scudnn|_simt_|ffma", re.IGNORECASE)
"""Names of cuBLAS, cuDNN and CUTLASS for float32 kernels on the plain units."""
PRODUCTS = re.compile(r"^(?:aten::)?(?:bmm|baddbmm|matmul|einsum)$")
"""What attention multiplies queries with keys by, where it is not fused."""
PAGEABLE = re.compile(r"memcpy.*pageable", re.IGNORECASE)


def _kinds(timeline: Timeline, wanted: Iterable[bool]) -> tuple[int, ...]:
    return tuple(index for index, yes in enumerate(wanted) if yes)


def _known(evidence: Evidence) -> Evidence | None:
    """None where it names nothing."""
    return evidence if evidence.kinds or evidence.change is not None else None


def _kernel_finding(
    recording: Recording,
    code: str,
    name: str,
    kinds: tuple[int, ...],
    message: str,
    advice: str,
    *,
    becomes_us: tuple[float, ...] = (),
    evidence: Evidence | None = None,
    fixes: tuple[str, ...] = (),
    threshold: float = DEVICE_SHARE,
) -> Iterator[Finding]:
    """A finding about kinds of kernels, if they take more than their share of the device's time.

    message: with {share}, {ms} and {calls}. evidence: what it is priced by, if more is known than these kinds
    and the times that they become.
    """
    timeline = recording.timeline
    assert timeline is not None
    spent, calls = columns_of(timeline).device_us(kinds)
    whole = sum(timeline.device_us)
    if not kinds or spent < threshold * whole:
        return
    loop = LoopTimes(timeline)
    inside = loop.inside(kinds)
    yield Finding(
        rule=code,
        name=name,
        kind=name,
        message=message.format(share=f"{spent / whole:.0%}", ms=milliseconds(spent), calls=f"{calls:,}"),
        grade=timeline.grade,
        severity=Severity.HIGH if inside else Severity.MEDIUM,
        phase="denoise" if inside else _one_phase(timeline, kinds),
        in_loop=bool(inside),
        count=calls,
        **often(loop.by_step(inside)),
        fixes=fixes,
        advice=advice,
        evidence=evidence or Evidence(kinds=kinds, becomes_us=becomes_us),
    )


def _one_phase(timeline: Timeline, kinds: Iterable[int]) -> str | None:
    """The phase that most of these kernels' time is spent in; None where it is spread or not known."""
    chosen = set(kinds)
    spent: dict[str, float] = {}
    for kind, us, span in zip(timeline.kind, timeline.device_us, phase_of_events(timeline), strict=True):
        if kind in chosen and span is not None:
            spent[span.name] = spent.get(span.name, 0.0) + us
    most = max(spent, key=spent.__getitem__, default="")
    return most if most and spent[most] > MOST_OF_IT * columns_of(timeline).device_us(chosen)[0] else None


@rule("KRN003", "slow-scheduler", needs=("timeline",))
def slow_scheduler(recording: Recording) -> Iterator[Finding]:
    """`scheduler.step` takes more than 5 % of a denoising step.

    What it does:
        Compares the time that the host spends in the scheduler's part with the whole step, steps after the
        first. The diffusers profiling guide calls under 1 % healthy and over 5 % not. Names the lines at
        which it waits most; one that only computes has none: its operations are all of a kind.

    Why it is slow:
        A step of a solver is a few multiplications; a long one waits for the device, uploads tables, or
        issues dozens of tiny kernels, and the denoiser can't start before it.

    Example:
        sigma = self.sigmas[i].to(sample.device)     # an upload in every step

    Use instead:
        self.sigmas = self.sigmas.to(device)         # once, in set_timesteps

    Fix safety:
        Moving a table does not change the output; another scheduler does.
    """
    timeline = recording.timeline
    assert timeline is not None
    loop = LoopTimes(timeline)
    share = loop.part_share("scheduler")
    if share is None:
        raise NoEvidence("which part of the steps is the scheduler's is not known")
    if share <= SCHEDULER_SHARE:
        return
    lines = waiting_lines(recording, loop.events_of("scheduler"), "its waits")
    yield loop_finding(
        "KRN003",
        "slow-scheduler",
        loop,
        f"scheduler.step takes {share:.0%} of a denoising step; over 5 % is unhealthy{lines}.",
        "Remove the scheduler's waits and uploads, or choose one without (`diffprof schedulers`).",
        severity=Severity.MEDIUM,
        saves_ms=saved_us(timeline, Without(events=loop.events_of("scheduler")), loop.run.total_us) / 1e3,
        cost_note="What a scheduler that costs nothing would save.",
    )


@rule("KRN004", "unfused-attention", needs=("timeline",))
def unfused_attention(recording: Recording) -> Iterator[Finding]:
    """Attention runs as matmul, softmax, matmul instead of one fused kernel.

    What it does:
        Looks for softmax kernels and the batched matmuls that belong to them. Reported from 2 % of the
        device's time. Names no line: which processor computes attention is set for a whole model.

    Why it is slow:
        The whole score matrix (heads x tokens x tokens) is written to memory and read back, several times.
        A fused kernel keeps it in the processor: published on SDXL and an A100, 4.63 s become 3.32 s.

    Example:
        pipe.unet.set_default_attn_processor()

    Use instead:
        from diffusers.models.attention_processor import AttnProcessor2_0
        pipe.unet.set_attn_processor(AttnProcessor2_0())

    Fix safety:
        Same mathematics in another order of summation: differences of rounding.
    """
    timeline = recording.timeline
    assert timeline is not None
    softmax = _kinds(timeline, (bool(SOFTMAX.search(k.name) or SOFTMAX.search(k.op)) for k in timeline.kinds))
    if not softmax or not any(PRODUCTS.match(k.op) for k in timeline.kinds):
        return
    batched = _kinds(timeline, (k.family == "gemm" and bool(BATCHED.match(k.op)) for k in timeline.kinds))
    kinds = (*softmax, *batched)
    becomes = (*[0.0] * len(softmax), *[_fused_us(timeline, kind) for kind in batched])
    yield from _kernel_finding(
        recording,
        "KRN004",
        "unfused-attention",
        kinds,
        "Attention that is not fused takes {share} of the device's time ({ms} in {calls} kernels).",
        "Let attention run through scaled_dot_product_attention: the default processors do.",
        becomes_us=becomes,
        evidence=_known(changed(recording, Change.SDPA)),
        fixes=("sdpa",),
    )


def _fused_us(timeline: Timeline, kind: int) -> float:
    """Time of a batched matmul inside a fused kernel: at the best rate that a matmul of its type reaches in
    this run, without the trips to memory."""
    about = timeline.kinds[kind]
    now = about.device_us or 0.0
    rates = [
        other.flops / other.device_us
        for other in timeline.kinds
        if other.family in ("gemm", "conv") and other.dtype == about.dtype and other.flops and other.device_us
    ]
    if not rates or not about.flops:
        return now
    return min(now, about.flops / max(rates))


@rule("KRN005", "fp32-without-tf32", needs=("timeline",))
def fp32_without_tf32(recording: Recording) -> Iterator[Finding]:
    """float32 matmuls don't use the tensor cores, although TF32 is there.

    What it does:
        Looks for matmuls and convolutions of float32 tensors that run at full float32 precision on a GPU
        with TF32 units. Reported from 2 % of the device's time. Names no line: it is a setting of the
        process, or the type that the models are loaded in.

    Why it is slow:
        An A100 does 19.5 TFLOPS in float32 and 156 in TF32. PyTorch allows TF32 for convolutions by default,
        for matmuls only when asked.

    Example:
        pipe = StableDiffusionXLPipeline.from_pretrained(...)      # float32 weights

    Use instead:
        torch.set_float32_matmul_precision("high")
        or dtype=torch.bfloat16, which is faster still and halves the memory.

    Fix safety:
        TF32 keeps 10 bits of the mantissa: small differences in the output.
    """
    timeline = recording.timeline
    assert timeline is not None
    kinds = _kinds(timeline, (_is_full_fp32(timeline, kind) for kind in timeline.kinds))
    if not kinds:
        return
    peaks = recording.device.details.get("peak_tflops") or {}
    full, tf32 = peaks.get("fp32"), peaks.get("tf32")
    if not full:
        raise NoEvidence(f"what {recording.device.name} reaches with and without TF32 is not known")
    if not tf32 or tf32 <= full:
        return
    becomes = tuple(_tf32_us(recording, kind, full / tf32) for kind in kinds)
    yield from _kernel_finding(
        recording,
        "KRN005",
        "fp32-without-tf32",
        kinds,
        "float32 matmuls without TF32 take {share} of the device's time ({ms} in {calls} kernels).",
        'Call torch.set_float32_matmul_precision("high"), or load the pipeline in bfloat16.',
        becomes_us=becomes,
        evidence=_known(changed(recording, Change.TF32)),
        fixes=("tf32",),
    )


def _is_full_fp32(timeline: Timeline, kind: KernelKind) -> bool:
    """Whether a kernel multiplies float32 without tensor cores: the simulation says so by its type, a real
    kernel by its name, since TF32 takes float32 tensors too."""
    if kind.family not in ("gemm", "conv"):
        return False
    if timeline.grade is Grade.SIMULATED:
        return kind.dtype == "float32"
    return bool(FULL_FP32.search(kind.name)) and kind.dtype in ("", "float32")


def _tf32_us(recording: Recording, kind: int, ratio: float) -> float:
    """Time with TF32: the peaks' ratio, but no faster than memory allows."""
    assert recording.timeline is not None
    about = recording.timeline.kinds[kind]
    now = about.device_us or 0.0
    bandwidth = recording.device.details.get("bandwidth_gb_s")
    floor = about.bytes / (bandwidth * 1e3) if about.bytes and bandwidth else 0.0
    return min(now, max(now * ratio, floor))


@rule("KRN006", "layout-conversion", needs=("timeline",))
def layout_conversion(recording: Recording) -> Iterator[Finding]:
    """Tensors are turned from NCHW to NHWC and back around convolutions.

    What it does:
        Looks for the conversion kernels that cuDNN runs before and after a convolution. Reported from 2 % of
        the device's time, on a simulated GPU where channels_last makes the call shorter. Names no line: the
        layout is set for a whole model.

    Why it is slow:
        Tensor-core convolutions work on NHWC. With PyTorch's default layout every one of them copies its
        input, its filter and its result. In channels_last a group norm still makes its input contiguous, and
        the next convolution turns it back; only compiling removes those.

    Example:
        pipe.unet(...)                                     # NCHW, the default

    Use instead:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)

    Fix safety:
        The same values in another order in memory; another kernel may round differently.
    """
    timeline = recording.timeline
    assert timeline is not None
    kinds = _kinds(timeline, (bool(LAYOUT.search(k.name)) for k in timeline.kinds))
    share = best_share(recording, Change.CHANNELS_LAST)
    if share is not None and share < GAINS:
        return
    advice, fixes = _layout_advice(recording)
    # Where other changes were priced and this could not be, not all of the conversions are taken to go.
    unknown = share is None and recording.setup is not None and bool(recording.setup.alternatives)
    yield from _kernel_finding(
        recording,
        "KRN006",
        "layout-conversion",
        kinds,
        "Layout conversions around convolutions take {share} of the device's time ({ms} in {calls} kernels).",
        advice,
        evidence=Evidence() if unknown else _known(changed(recording, Change.CHANNELS_LAST)),
        fixes=fixes,
    )


def _layout_advice(recording: Recording) -> tuple[str, tuple[str, ...]]:
    """What to do about conversions, and the fixes that do it: by what convolutions denoisers and VAEs have,
    and how they are stored."""
    parts = recording.setup.parts if recording.setup else ()
    flat = [part for part in parts if part.role in ("denoiser", "vae") and part.convs]
    if flat and all(part.convs_channels_last for part in flat):
        return "Compile the models: their convolutions are in torch.channels_last already.", ("compile",)
    if parts and not flat:
        return (
            "Put each three-dimensional convolution into torch.channels_last_3d (`for m in model.modules(): "
            "if isinstance(m, torch.nn.Conv3d): m.to(memory_format=torch.channels_last_3d)`), and measure "
            "it: a model that has others too can't be put into it as a whole.",
            (),
        )
    return "Put the models with convolutions into torch.channels_last.", ("channels-last",)


@rule("KRN007", "dtype-cast", needs=("timeline",))
def dtype_cast(recording: Recording) -> Iterator[Finding]:
    """Tensors are cast from one type to another at a noticeable cost.

    What it does:
        Adds up kernels that only change a tensor's type, and names the lines that most of it comes from.
        Reported from 2 % of the device's time.

    Why it is slow:
        A cast reads and writes the whole tensor and computes nothing. Casts in every step come from weights
        in one type and activations in another, or are written in a model's code, around a norm, a softmax or
        a rotary embedding: these stay in whatever type it is loaded. Compiled, they are part of the kernels
        around them.

    Example:
        pipe.upcast_vae()                                  # the VAE of a float16 pipeline in float32

    Use instead:
        A VAE that is stable in half precision (madebyollin/sdxl-vae-fp16-fix), or bfloat16 throughout.

    Fix safety:
        Another type of an intermediate result changes the output within rounding.
    """
    timeline = recording.timeline
    assert timeline is not None
    kinds = _kinds(timeline, (bool(CAST.search(k.name)) for k in timeline.kinds))
    written = _written_casts(recording.casts or ())
    yield from _kernel_finding(
        recording,
        "KRN007",
        "dtype-cast",
        kinds,
        "Type casts take {share} of the device's time ({ms} in {calls} kernels)"
        f"{_most_lines(recording)}.",
        WRITTEN_CASTS if written else "Load all components in one type, and keep casts out of the loop.",
        fixes=compile_fixes(recording) if written and _compiling_saves(recording) else (),
    )


def _compiling_saves(recording: Recording) -> bool:
    saved = saved_ms(recording, Change.COMPILED)
    return saved is not None and saved[0] > 0


def _written_casts(rows: Sequence[LineRow]) -> bool:
    """Whether most of the time goes to casts that the lines themselves ask for."""
    total = sum(row.device_us for row in rows)
    return sum(row.device_us for row in rows if ASKS_FOR_TYPE.search(_code(row.site))) > total / 2


def _code(site: Site) -> str:
    return next((text for number, text in site.excerpt if number == site.line), "")


def _most_lines(recording: Recording) -> str:
    """The lines that most of the time of casts comes from, with their share of it."""
    return most_of({place(row.site): row.device_us for row in recording.casts or ()}, "it at")


@rule("KRN008", "pageable-copy", needs=("timeline",))
def pageable_copy(recording: Recording) -> Iterator[Finding]:
    """Copies between host and device in the loop go through pageable memory.

    What it does:
        Looks for transfers from or to memory that is not page-locked, in the denoising loop, and names the
        lines that ask for most of them, where the host waits for these. Reported from 0.1 ms a step.
        Weights that offloading moves are SYN010's.

    Why it is slow:
        The driver copies pageable memory through a staging buffer of its own, at about half of the link's
        rate, and the host takes part in it.

    Example:
        latents = noise_table[i].to("cuda")                # in every step

    Use instead:
        noise_table = noise_table.to("cuda")               # once, before the loop

    Fix safety:
        The same bytes, moved once.
    """
    timeline = recording.timeline
    assert timeline is not None
    kinds = _kinds(timeline, (bool(PAGEABLE.search(k.name)) for k in timeline.kinds))
    loop = LoopTimes.of(recording)
    apart = of_offloading(recording)
    events = [event for event in loop.inside(kinds) if timeline.sync[event] not in apart]
    spent = sum(timeline.device_us[event] for event in events)
    # Every call uploads something once: without steps only a noticeable share of the whole counts.
    least = GAP_US * loop.steps if loop.steps else DEVICE_SHARE * sum(timeline.device_us)
    if not events or spent < least:
        return
    # The wait of a copy is told with it, or right after it.
    lines = waiting_lines(recording, sorted({*events, *_waits_after(timeline, events)}))
    yield loop_finding(
        "KRN008",
        "pageable-copy",
        loop,
        f"Copies through pageable memory take {milliseconds(spent)}{lines}.",
        "The SYN findings of these lines say how to be without them."
        if lines
        else "Move the data to the device once, before the loop.",
        count=len(events),
        by_step=loop.by_step(events),
        outside=Severity.MEDIUM,
        evidence=Evidence(events=tuple(events)),
    )


def _waits_after(timeline: Timeline, events: Sequence[int]) -> Iterator[int]:
    """Events that are a wait alone, right after one of these."""
    for event in (event + 1 for event in events):
        if event < len(timeline.kind) and timeline.kind[event] < 0:
            yield event


@rule("KRN012", "compiled-not-fused", needs=("timeline",))
def compiled_not_fused(recording: Recording) -> Iterator[Finding]:
    """The compiled run launches about as many kernels as the eager one.

    What it does:
        Compares the number of kernels of a compiled run with those of the same call run eagerly. Reported
        from 90 %. Names no line: compiled kernels have none; the GRB findings name those that break graphs.

    Why it is slow:
        A compiler that fuses leaves a fraction of the kernels. As many as before means that little was
        compiled: graph breaks, a part that fell back to eager, or the wrong module.

    Example:
        pipe = torch.compile(pipe)                         # the pipeline, not its models

    Use instead:
        pipe.unet.compile(fullgraph=True)                  # fails where it would break

    Fix safety:
        Compiling changes the output within rounding.
    """
    timeline = recording.timeline
    assert timeline is not None
    if timeline.mode == "eager":
        return
    if not timeline.eager_kernels:
        raise NoEvidence(
            "how many kernels the same call launches eagerly is not in this recording: record that too, and "
            "`diffprof compare` the two"
        )
    launched = sum(1 for us in timeline.device_us if us > 0)
    if launched < SAME_KERNELS * timeline.eager_kernels:
        return
    yield Finding(
        rule="KRN012",
        name="compiled-not-fused",
        kind="compiled-not-fused",
        message=f"The compiled run launches {launched:,} kernels, the eager one {timeline.eager_kernels:,}.",
        grade=timeline.grade,
        severity=Severity.HIGH,
        phase="denoise",
        in_loop=True,
        count=launched,
        advice="Compile the models themselves with fullgraph=True, and look at the GRB findings.",
    )
