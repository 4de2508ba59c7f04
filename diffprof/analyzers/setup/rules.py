"""SET: how the pipeline is set up, where another setup would make it faster or let it fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from diffprof.analyzers.setup import roads as _roads  # noqa: F401  (its rules belong to this analyzer)
from diffprof.finding import Evidence, Finding, Severity
from diffprof.recording import Recording, Setup, SetupPart
from diffprof.rules import rule
from diffprof.setup_costs import evidence

WORTH = 0.001
"""Share of the call that a change has to save to be worth a finding, where that is known."""

AMPLE = 0.8
"""Share of the device's memory up to which it is ample: the rest goes to fragments and other processes."""

HEAVY = ("denoiser", "vae")
"""Roles of the models that take the time."""


def _setup(recording: Recording) -> Setup:
    assert recording.setup is not None
    return recording.setup


def _finding(recording: Recording, code: str, name: str, message: str, advice: str, **more: Any) -> Finding:
    rests_on: Evidence = more.get("evidence") or Evidence()
    priced = bool(rests_on.kinds or rests_on.events)
    timeline = recording.timeline
    return Finding(
        rule=code,
        name=name,
        kind=name,
        message=message,
        advice=advice,
        grade=timeline.grade if priced and timeline else recording.device.grade,
        **{
            "severity": Severity.MEDIUM,
            "cost_note": None if priced else "Not known before it is tried.",
            **more,
        },
    )


def _worth(recording: Recording, rests_on: Evidence) -> bool:
    """Whether a change with this evidence saves enough; True where that can't be told."""
    timeline = recording.timeline
    if timeline is None or not timeline.host_us or _setup(recording).costs is None:
        return True
    if not rests_on.kinds:
        return False
    whole = sum(timeline.device_us)
    calls = Counter(timeline.kind)
    saved = sum(
        calls[kind] * ((timeline.kinds[kind].device_us or 0.0) - us)
        for kind, us in zip(rests_on.kinds, rests_on.becomes_us, strict=True)
    )
    return saved >= WORTH * whole


def _named(parts: list[SetupPart]) -> str:
    return ", ".join(part.name for part in parts)


def _mainly(part: SetupPart) -> str | None:
    """The type of most of its weights."""
    return max(part.dtypes, key=lambda dtype: part.dtypes[dtype], default=None)


def _heavy(setup: Setup, wanted: Callable[[SetupPart], object] = bool) -> list[SetupPart]:
    return [part for part in setup.parts if part.role in HEAVY and wanted(part)]


# --- precision -------------------------------------------------------------------------------------------


def half_types(recording: Recording) -> tuple[str, ...]:
    """Half-precision types that the device computes fast, the safer one first."""
    device = recording.device
    peaks = device.details.get("peak_tflops") or {}
    capability = str(device.details.get("capability", ""))
    if peaks:
        return tuple(name for short, name in (("bf16", "bfloat16"), ("fp16", "float16")) if short in peaks)
    if device.kind == "cuda" and capability[:1].isdigit() and int(capability.split(".")[0]) < 8:
        return ("float16",)
    return ("bfloat16",) if device.kind == "cpu" else ("bfloat16", "float16")


@rule("SET001", "full-precision", needs=("setup",))
def full_precision(recording: Recording) -> Iterator[Finding]:
    """The models are in float32 where a half-precision type would do.

    What it does:
        Reports models whose weights are mostly float32. A VAE whose configuration says that it overflows in
        float16 may stay, beside a float16 denoiser.

    Why it is slow:
        Half the bytes have to be moved, and tensor cores do twice as much in 16 bits as in TF32 (16 times as
        much as in float32 without them). Published for SDXL on an A100: 7.36 s become 4.63 s.

    Example:
        pipe = StableDiffusionXLPipeline.from_pretrained(model_id)          # float32, the default

    Use instead:
        pipe = StableDiffusionXLPipeline.from_pretrained(model_id, dtype=torch.bfloat16)

    Fix safety:
        Lossy: bfloat16 keeps 8 bits of the mantissa, float16 11; details of the image change. bfloat16 has
        float32's range, so that nothing overflows.
    """
    setup = _setup(recording)
    denoisers = [part for part in setup.parts if part.role == "denoiser"]
    half = any(_mainly(part) == "float16" for part in denoisers)
    full = [
        part
        for part in setup.parts
        if _mainly(part) == "float32" and part.linears + part.convs and not part.quantized
        if not (part.force_upcast and half)
    ]
    rests_on = evidence(recording, "half")
    if not full or not _worth(recording, rests_on):
        return
    size = sum(part.dtypes["float32"] for part in full)
    types = half_types(recording)
    yield _finding(
        recording,
        "SET001",
        "full-precision",
        f"{_named(full)} in float32: {size / 1e9:,.2f} GB of weights where half would do.",
        f"Load the pipeline with dtype=torch.{types[0] if types else 'float16'}.",
        severity=Severity.HIGH if any(part.role in HEAVY for part in full) else Severity.MEDIUM,
        count=len(full),
        fixes=types[:1],
        evidence=rests_on,
    )


@rule("SET002", "vae-upcast", needs=("setup",))
def vae_upcast(recording: Recording) -> Iterator[Finding]:
    """The VAE of a float16 pipeline is turned to float32 for decoding, and back, in every call.

    What it does:
        Looks for a VAE in float16 whose configuration says `force_upcast`: it would overflow.

    Why it is slow:
        All its weights are cast twice a call, and it decodes at float32's speed.

    Example:
        pipe = StableDiffusionXLPipeline.from_pretrained(model_id, dtype=torch.float16)

    Use instead:
        pipe = StableDiffusionXLPipeline.from_pretrained(model_id, dtype=torch.bfloat16)
        or vae=AutoencoderKL.from_pretrained("madebyollin/sdxl-vae-fp16-fix", dtype=torch.float16)

    Fix safety:
        Lossy: bfloat16 has float32's range, so that nothing overflows, and fewer bits than float16.
    """
    upcast = [p for p in _setup(recording).parts if p.force_upcast and _mainly(p) == "float16"]
    if not upcast:
        return
    types = half_types(recording)
    rests_on = evidence(recording, "half")
    yield _finding(
        recording,
        "SET002",
        "vae-upcast",
        f"{_named(upcast)} is upcast to float32 for every decoding: it overflows in float16.",
        "Use bfloat16 throughout, or a VAE that is stable in float16 (madebyollin/sdxl-vae-fp16-fix).",
        phase="decode",
        fixes=("bfloat16",) if "bfloat16" in types else (),
        evidence=rests_on,
    )


# --- attention -------------------------------------------------------------------------------------------


@rule("SET003", "attention-without-sdpa", needs=("setup",))
def attention_without_sdpa(recording: Recording) -> Iterator[Finding]:
    """Attention processors compute scores, softmax and product apart.

    What it does:
        Reads the processors' code: those that call `get_attention_scores`. Where kernels were recorded,
        KRN004 says it instead, with its price.

    Why it is slow:
        The whole score matrix (heads x tokens x tokens) is written to memory and read back, several times.

    Example:
        pipe.unet.set_default_attn_processor()
        pipe.enable_attention_slicing()

    Use instead:
        from diffusers.models.attention_processor import AttnProcessor2_0
        pipe.unet.set_attn_processor(AttnProcessor2_0())

    Fix safety:
        Numeric: the same mathematics in another order of summation.
    """
    if recording.timeline is not None:
        return
    parts = [part for part in _setup(recording).parts if part.unfused]
    if not parts:
        return
    count = sum(part.attention.get(cls, 0) for part in parts for cls in part.unfused)
    classes = dict.fromkeys(cls for part in parts for cls in part.unfused)
    yield _finding(
        recording,
        "SET003",
        "attention-without-sdpa",
        f"{count} attention modules of {_named(parts)} use {', '.join(classes)}, which is not fused.",
        "Let attention run through scaled_dot_product_attention: the default processors do.",
        severity=Severity.HIGH,
        count=count,
        fixes=("sdpa",),
    )


@rule("SET004", "attention-backend", needs=("setup",))
def attention_backend(recording: Recording) -> Iterator[Finding]:
    """A faster attention library is installed, and not used.

    What it does:
        For models whose attention goes through diffusers' dispatcher, in half precision on a CUDA device:
        looks for FlashAttention 3 (on Hopper) or FlashAttention 2 among the installed packages.

    Why it is slow:
        FlashAttention 3 reaches 75 % of an H100's peak where version 2 reaches 35 % (arXiv:2407.08608).

    Example:
        pipe.transformer(...)                                   # PyTorch's own kernels

    Use instead:
        pipe.transformer.set_attention_backend("_flash_3")

    Fix safety:
        Numeric: the same mathematics in another order of summation.
    """
    setup = _setup(recording)
    parts = [
        p for p in setup.parts if p.dispatched and p.backend in (None, "native") and p.role == "denoiser"
    ]
    backend = best_backend(recording)
    halves = [p for p in parts if _mainly(p) in ("bfloat16", "float16")]
    if backend is None or not halves:
        return
    yield _finding(
        recording,
        "SET004",
        "attention-backend",
        f"{_named(halves)}: attention runs PyTorch's kernels; {backend} is installed.",
        f'Call {halves[0].name}.set_attention_backend("{backend}").',
        fixes=("attention-backend",),
    )


def best_backend(recording: Recording) -> str | None:
    """The name, for diffusers' dispatcher, of the fastest installed library that this device runs."""
    setup, device = recording.setup, recording.device
    if setup is None or device.kind != "cuda":
        return None
    major = str(device.details.get("capability", "0")).split(".")[0]
    if "flash_attn_interface" in setup.packages and major == "9":
        return "_flash_3"
    if "flash_attn" in setup.packages and major.isdigit() and int(major) >= 8:
        return "flash"
    return None


@rule("SET005", "separate-projections", needs=("setup",))
def separate_projections(recording: Recording) -> Iterator[Finding]:
    """Query, key and value are projected one by one.

    What it does:
        Counts attention modules whose projections `fuse_qkv_projections` would put together.

    Why it is slow:
        Three matrix products read the same input; one of three times the width fills the processors better,
        and is one launch. Published for SDXL on an A100, compiled: 2.538 s become 2.523 s.

    Example:
        pipe(...)                                               # to_q, to_k, to_v

    Use instead:
        pipe.fuse_qkv_projections()

    Fix safety:
        Numeric: the same products; another kernel may sum in another order. Unfused weights stay in memory.
    """
    setup = _setup(recording)
    parts = [part for part in setup.parts if part.fusable and not part.quantized]
    rests_on = evidence(recording, "qkv")
    if not parts or not _worth(recording, rests_on):
        return
    count = sum(part.fusable or 0 for part in parts)
    yield _finding(
        recording,
        "SET005",
        "separate-projections",
        f"{count} attention modules of {_named(parts)} project query, key and value apart.",
        "Call pipe.fuse_qkv_projections().",
        severity=Severity.LOW,
        count=count,
        fixes=("fuse-qkv",),
        evidence=rests_on,
    )


@rule("SET006", "lora-not-fused", needs=("setup",))
def lora_not_fused(recording: Recording) -> Iterator[Finding]:
    """LoRA adapters are computed beside the layers that they change.

    What it does:
        Counts layers with adapters that are not merged into the weights.

    Why it is slow:
        Each of them runs two more small matrix products, a scaling and an addition: on SDXL over 2,000 more
        launches in a step.

    Example:
        pipe.load_lora_weights("style.safetensors")
        pipe(prompt)

    Use instead:
        pipe.load_lora_weights("style.safetensors")
        pipe.fuse_lora()
        pipe.unload_lora_weights()

    Fix safety:
        Numeric: the sum is taken over the weights instead of over the results, in the weights' type.
    """
    setup = _setup(recording)
    parts = [part for part in setup.parts if part.adapted]
    if not parts:
        return
    count = sum(part.adapted for part in parts)
    names = ", ".join(setup.adapters)
    yield _finding(
        recording,
        "SET006",
        "lora-not-fused",
        f"{count} layers of {_named(parts)} compute the adapter {names or 'LoRA'} beside their own weights.",
        "Call pipe.fuse_lora() and pipe.unload_lora_weights().",
        count=count,
        fixes=("fuse-lora",),
        evidence=Evidence(events=_adapter_events(recording)),
    )


def _adapter_events(recording: Recording) -> tuple[int, ...]:
    """Events of the timeline that exist for adapters: those of their own modules, and those of the layers
    around them, whose own products run in `base_layer`."""
    timeline = recording.timeline
    if timeline is None:
        return ()
    wrapped = {name.removesuffix(".base_layer") for name in timeline.modules if name.endswith(".base_layer")}
    extra = {
        n
        for n, name in enumerate(timeline.modules)
        if name in wrapped or (".lora_" in name and name.split(".lora_")[0] in wrapped)
    }
    return tuple(event for event, module in enumerate(timeline.module) if module in extra)


# --- memory ----------------------------------------------------------------------------------------------


@rule("SET007", "vae-in-pieces", needs=("setup", "memory"))
def vae_in_pieces(recording: Recording) -> Iterator[Finding]:
    """The VAE decodes in tiles or slices while memory is ample.

    What it does:
        Looks for a VAE with tiling or slicing on, in a call whose peak leaves room: four times what the
        decoding took would fit into 80 % of the device's memory.

    Why it is slow:
        Tiles overlap and are blended, slices are decoded one after the other: more kernels, each smaller.

    Example:
        pipe.vae.enable_tiling()

    Use instead:
        pipe.vae.disable_tiling()

    Fix safety:
        Lossy for tiling: tiles are blended, whole pictures need not be. Slices differ by rounding.
    """
    setup, memory = _setup(recording), recording.memory
    assert memory is not None
    pieces = [part for part in setup.parts if part.tiling or part.slicing]
    if not pieces or not memory.peak_bytes or not memory.capacity_bytes:
        return
    weights = memory.weights_bytes or 0
    decoding = max(memory.by_phase.get("decode", memory.peak_bytes) - weights, 0)
    if weights + 4 * decoding > AMPLE * memory.capacity_bytes:
        return
    tiled = [part for part in pieces if part.tiling]
    sliced = [part for part in pieces if part.slicing]
    how = " and ".join(word for word, some in (("tiling", tiled), ("slicing", sliced)) if some)
    yield _finding(
        recording,
        "SET007",
        "vae-in-pieces",
        f"{_named(pieces)} decodes with {how}; "
        f"the peak is {memory.peak_bytes / 1e9:,.1f} of {memory.capacity_bytes / 1e9:,.1f} GB.",
        f"Switch {how} off.",
        phase="decode",
        severity=Severity.LOW,
        fixes=(*(("vae-untiled",) if tiled else ()), *(("vae-unsliced",) if sliced else ())),
    )


@rule("SET008", "decoding-does-not-fit", needs=("setup", "memory"))
def decoding_does_not_fit(recording: Recording) -> Iterator[Finding]:
    """Decoding takes more memory than the device has.

    What it does:
        Compares the peak of the decoding with the device's memory, where the VAE could decode in tiles.

    Why it is slow:
        It fails, or the driver pages through the host's memory. In tiles the activations of the VAE are
        bounded by the tile's size, whatever the picture's.

    Example:
        pipe(prompt, height=4096, width=4096)

    Use instead:
        pipe.vae.enable_tiling()

    Fix safety:
        Lossy: tiles are decoded apart and blended where they overlap.
    """
    setup, memory = _setup(recording), recording.memory
    assert memory is not None
    need = memory.by_phase.get("decode", 0)
    able = [part for part in setup.parts if part.tiling is False]
    if not able or not memory.capacity_bytes or need <= memory.capacity_bytes:
        return
    yield _finding(
        recording,
        "SET008",
        "decoding-does-not-fit",
        f"Decoding takes {need / 1e9:,.1f} GB, the device has {memory.capacity_bytes / 1e9:,.1f}.",
        "Switch the VAE's tiling on.",
        phase="decode",
        severity=Severity.HIGH,
        fixes=("vae-tiled",),
    )


@rule("SET009", "needless-offload", needs=("setup",))
def needless_offload(recording: Recording) -> Iterator[Finding]:
    """Weights are kept on the host and moved in every call, although they would fit on the device.

    What it does:
        Looks for the hooks of accelerate's and diffusers' offloading, and compares weights and activations
        with the device's memory.

    Why it is slow:
        All weights cross the link in every call (5.1 GB of SDXL's UNet in half precision: 0.2 s at 25 GB/s);
        with sequential offloading in every step, one layer at a time.

    Example:
        pipe.enable_model_cpu_offload()

    Use instead:
        pipe.to("cuda")

    Fix safety:
        Exact: the same weights, in another place.
    """
    setup = _setup(recording)
    if setup.offload is None:
        return
    room = recording.device.memory_bytes
    need = memory_without_offload(recording)
    if recording.device.kind == "cpu" or room is None or need > AMPLE * room:
        return
    yield _finding(
        recording,
        "SET009",
        "needless-offload",
        f"{setup.offload} offloading moves weights in every call; about {need / 1e9:,.1f} GB are needed, "
        f"the device has {room / 1e9:,.1f}.",
        "Keep the pipeline on the device: pipe.to(device) instead of offloading.",
        severity=Severity.HIGH,
        fixes=("replace-offload",),
        evidence=Evidence(syncs=tuple(n for n, row in enumerate(recording.syncs or ()) if row.offload)),
    )


def memory_without_offload(recording: Recording) -> int:
    """Bytes that a call would take with all weights on the device: weights, and the activations of the call
    (their peak with offloading may hold weights too, so this is an upper bound)."""
    setup, memory = recording.setup, recording.memory
    weights = sum(size for part in (setup.parts if setup else ()) for size in part.dtypes.values())
    return weights + ((memory.peak_bytes or 0) if memory else 0)


# --- layout, compilation ---------------------------------------------------------------------------------


@rule("SET010", "contiguous-convolutions", needs=("setup",))
def contiguous_convolutions(recording: Recording) -> Iterator[Finding]:
    """Convolutions keep their weights in PyTorch's default order.

    What it does:
        Counts convolutions whose weights are not in channels_last. Where kernels were recorded, KRN006 says
        it instead, from the conversions that it costs.

    Why it is slow:
        Fast convolution kernels work on channels innermost, on GPUs' tensor cores and on CPUs: every one of
        them reorders its input, its filter and its result.

    Example:
        pipe.unet(...)                                          # NCHW, the default

    Use instead:
        pipe.unet.to(memory_format=torch.channels_last)
        pipe.vae.to(memory_format=torch.channels_last)

    Fix safety:
        Numeric: the same values in another order in memory; another kernel may round differently.
    """
    if recording.timeline is not None:
        return
    parts = _heavy(_setup(recording), lambda part: part.convs > 4 and not part.convs_channels_last)
    if not parts:
        return
    yield _finding(
        recording,
        "SET010",
        "contiguous-convolutions",
        f"{sum(part.convs for part in parts)} convolutions of {_named(parts)} are in the default order.",
        "Put the models with convolutions into torch.channels_last.",
        severity=Severity.LOW,
        count=sum(part.convs for part in parts),
        fixes=("channels-last",),
    )


@rule("SET011", "not-compiled", needs=("setup",))
def not_compiled(recording: Recording) -> Iterator[Finding]:
    """The denoiser runs eagerly.

    What it does:
        Looks for denoisers that are not compiled, as a whole or by block. On a simulated GPU the same
        operations are costed again as a compiled graph; on others it has to be tried.

    Why it is slow:
        Chains of small operations each read and write memory where one generated kernel would do, layouts are
        converted around convolutions, and every launch costs the host time. Published for SDXL on an A100:
        3.32 s become 2.54 s.

    Example:
        pipe.unet(...)

    Use instead:
        pipe.unet.compile(mode="max-autotune", fullgraph=True)
        pipe.unet.compile_repeated_blocks(fullgraph=True)       # a seventh of the time to compile

    Fix safety:
        Numeric: fused kernels round less often.
    """
    setup = _setup(recording)
    parts = [part for part in setup.parts if part.role == "denoiser" and part.compiled is None]
    rests_on = evidence(recording, "compiled")
    if not parts or (recording.timeline and recording.timeline.mode != "eager"):
        return
    if not _worth(recording, rests_on):
        return
    repeated = any(part.repeated for part in parts)
    whole_first = recording.device.kind != "cpu" or not repeated
    fixes = (*(("compile",) if whole_first else ()), *(("compile-blocks",) if repeated else ()))
    yield _finding(
        recording,
        "SET011",
        "not-compiled",
        f"{_named(parts)} runs eagerly: each operation is a kernel of its own.",
        "Compile the denoiser and the VAE's decoder.",
        severity=Severity.HIGH,
        count=len(parts),
        fixes=fixes,
        evidence=rests_on,
    )


@rule("SET012", "inductor-flags", needs=("setup",))
def inductor_flags(recording: Recording) -> Iterator[Finding]:
    """A pipeline is compiled without the flags of the published recipe.

    What it does:
        Compares Inductor's configuration with the recipe that was published for SDXL: 1x1 convolutions as
        matrix products, coordinate-descent tuning in all directions, no epilogue fusion.

    Why it is slow:
        With its defaults Inductor tries fewer tilings of the kernels that it generates.

    Example:
        pipe.unet.compile(mode="max-autotune", fullgraph=True)

    Use instead:
        options = torch._inductor.list_mode_options("max-autotune")
        options |= {"conv_1x1_as_mm": True, "coordinate_descent_check_all_directions": True}
        pipe.unet.compile(fullgraph=True, options=options)

    Fix safety:
        Numeric: other tilings sum in another order. Options of one `compile` leave the process as it was.
    """
    setup = _setup(recording)
    if recording.device.kind != "cuda" or not setup.inductor:
        return
    parts = [part for part in setup.parts if part.compiled and part.role in HEAVY]
    other = [name for name, wanted in RECIPE_FLAGS.items() if setup.inductor.get(name, wanted) is not wanted]
    if not parts or not other:
        return
    yield _finding(
        recording,
        "SET012",
        "inductor-flags",
        f"{_named(parts)} is compiled with Inductor's defaults for {', '.join(other)}.",
        "Pass the published recipe's flags as options of the compilation.",
        severity=Severity.INFO,
        fixes=("compile",),
    )


RECIPE_FLAGS = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "epilogue_fusion": False,
}
"""github.com/huggingface/diffusion-fast, utils/pipeline_utils.py."""


@rule("SET013", "progress-bar", needs=("setup",))
def progress_bar(recording: Recording) -> Iterator[Finding]:
    """A progress bar is drawn while the pipeline denoises.

    What it does:
        Looks at the pipeline's progress-bar configuration.

    Why it is slow:
        Drawing is Python between two steps, when nothing new is launched; under a compiler it breaks the
        loop's graph. Tenths of a millisecond a step: it matters where steps are short.

    Example:
        pipe(prompt)

    Use instead:
        pipe.set_progress_bar_config(disable=True)

    Fix safety:
        Exact: the image is the same bit for bit.
    """
    if not _setup(recording).progress_bar:
        return
    yield _finding(
        recording,
        "SET013",
        "progress-bar",
        "A progress bar is drawn in every step.",
        "Call pipe.set_progress_bar_config(disable=True) where nobody looks at it.",
        severity=Severity.INFO,
        fixes=("no-progress-bar",),
    )


# --- quantization ----------------------------------------------------------------------------------------


@rule("SET014", "linears-not-quantized", needs=("setup",))
def linears_not_quantized(recording: Recording) -> Iterator[Finding]:
    """Large linears run in 16 or 32 bits on a device with INT8 units.

    What it does:
        On a simulated GPU, costs each linear of denoiser and VAE again in INT8, activation quantization
        included. Elsewhere it names linears that are large enough to try. `--analyzers quantization` times
        each shape on the device; its QNT findings then replace this one.

    Why it is slow:
        INT8 units do twice as much as 16-bit ones, on half the bytes. Published for SDXL on an A100: 2.52 s
        become 2.43 s; small or short linears lose, so the choice matters.

    Example:
        pipe.unet.compile()                                     # all linears in bfloat16

    Use instead:
        quantize_(pipe.unet, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False), filter_fn)
        before compiling, with a filter for the linears that gain.

    Fix safety:
        Lossy: weights and activations are rounded to 8 bits.
    """
    if recording.quantization is not None:
        return
    setup = _setup(recording)
    parts = _heavy(setup, lambda part: part.linears and not part.quantized)
    if not parts:
        return
    rests_on = evidence(recording, "int8")
    if setup.costs is None:
        large = _large_linears(recording)
        if not large:
            return
        message = f"{_named(parts)}: linears in 16 or 32 bits; which of them gain has to be measured."
    else:
        if not _worth(recording, rests_on):
            return
        faster = len({_shape(p) for p in setup.costs.projections if p.int8_us < p.now_us})
        message = f"{_named(parts)}: INT8 would make linears of {faster} shapes faster."
    yield _finding(
        recording,
        "SET014",
        "linears-not-quantized",
        message,
        "Quantize the linears that gain to INT8, before compiling.",
        fixes=("quantize-linears",),
        evidence=rests_on,
    )


def _shape(projection: Any) -> tuple[int, int, int]:
    return (projection.rows, projection.in_features, projection.out_features)


def _large_linears(recording: Recording) -> bool:
    """Whether the denoiser is large enough that INT8 may gain: 100 million weights."""
    return any(
        part.role == "denoiser" and sum(part.dtypes.values()) >= 2 * 10**8 for part in _setup(recording).parts
    )
