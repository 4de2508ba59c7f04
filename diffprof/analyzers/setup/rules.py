"""SET: how the pipeline is set up, where another setup would make it faster or let it fit.

Here: types of weights, attention, and layers that could be fewer.
"""

from __future__ import annotations

from collections.abc import Iterator

from diffprof.analyzers.setup import alternatives, compile_rules, memory_rules
from diffprof.analyzers.setup.judging import HEAVY, is_worth, judged, named, setup_of
from diffprof.judge.fitting import gib
from diffprof.judge.half_types import as_numpy, half_types, mainly
from diffprof.judge.rules import rule
from diffprof.judge.setup_costs import evidence
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import AttentionTiming, Change, Recording

__all__ = ["alternatives", "compile_rules", "memory_rules"]
"""Modules whose rules belong to this analyzer."""


# --- precision -------------------------------------------------------------------------------------------


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
    setup = setup_of(recording)
    denoisers = [part for part in setup.parts if part.role == "denoiser"]
    half = any(mainly(part) == "float16" for part in denoisers)
    full = [
        part
        for part in setup.parts
        if mainly(part) == "float32" and part.linears + part.convs and not part.quantized
        if not (part.force_upcast and half)
    ]
    rests_on = evidence(recording, Change.HALF)
    if not full or not is_worth(recording, rests_on):
        return
    size = sum(part.dtypes["float32"] for part in full)
    types = half_types(recording)
    yield judged(
        recording,
        "SET001",
        "full-precision",
        f"{named(full)} in float32: {gib(size)} GiB of weights where half would do.",
        f"Load the pipeline with dtype=torch.{types[0] if types else 'float16'}.{_no_bfloat16(recording)}",
        severity=Severity.HIGH if any(part.role in HEAVY for part in full) else Severity.MEDIUM,
        count=len(full),
        fixes=types[:1],
        evidence=rests_on,
    )


def _no_bfloat16(recording: Recording) -> str:
    """A sentence where the pipeline can't run in bfloat16."""
    row = as_numpy(recording)
    at = f"{row.site.file}:{row.site.line}" if row else ""
    return f" Not in bfloat16: {at} calls .numpy(), which raises on it." if row else ""


@rule("SET002", "vae-upcast", needs=("setup",))
def vae_upcast(recording: Recording) -> Iterator[Finding]:
    """The VAE of a float16 pipeline is turned to float32 for decoding, and back, in every call.

    What it does:
        Looks for a VAE in float16 whose configuration says `force_upcast`: it would overflow. Pipelines that
        do not look at that (Stable Diffusion 1.5) decode in float16, and are not reported.

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
    setup = setup_of(recording)
    upcast = [p for p in setup.parts if p.force_upcast and mainly(p) == "float16"]
    if not upcast or not setup.upcasts_vae:
        return
    types = half_types(recording)
    rests_on = evidence(recording, Change.HALF)
    yield judged(
        recording,
        "SET002",
        "vae-upcast",
        f"{named(upcast)} is upcast to float32 for every decoding: it overflows in float16.",
        ("Use bfloat16 throughout, or" if "bfloat16" in types else "Use")
        + " a VAE that is stable in float16 (madebyollin/sdxl-vae-fp16-fix)."
        + _no_bfloat16(recording),
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
    parts = [part for part in setup_of(recording).parts if part.unfused]
    if not parts:
        return
    count = sum(part.attention.get(cls, 0) for part in parts for cls in part.unfused)
    classes = dict.fromkeys(cls for part in parts for cls in part.unfused)
    yield judged(
        recording,
        "SET003",
        "attention-without-sdpa",
        f"{count} attention modules of {named(parts)} use {', '.join(classes)}, which is not fused.",
        "Let attention run through scaled_dot_product_attention: the default processors do.",
        severity=Severity.HIGH,
        count=count,
        fixes=("sdpa",),
    )


@rule("SET004", "attention-backend", needs=("setup",))
def attention_backend(recording: Recording) -> Iterator[Finding]:
    """A faster attention kernel is there, and not used.

    What it does:
        Compares every distinct attention of the call under the kernels that PyTorch has for it, and under
        those of installed libraries where the model goes through diffusers' dispatcher: measured on a GPU,
        predicted on a simulated one. Where nothing was timed, it looks for FlashAttention 3 (on Hopper) or
        FlashAttention 2 among the installed packages.

    Why it is slow:
        FlashAttention 3 and cuDNN's kernel reach 65 to 75 % of an H100's peak where FlashAttention 2 reaches
        35 % (arXiv:2407.08608).

    Example:
        pipe.transformer(...)                                   # FlashAttention 2

    Use instead:
        pipe.transformer.set_attention_backend("_flash_3")      # or torch.nn.attention.sdpa_kernel

    Fix safety:
        Numeric: the same mathematics in another order of summation.
    """
    setup = setup_of(recording)
    parts = [p for p in setup.parts if p.backend in (None, "native") and p.role == "denoiser"]
    backend = best_backend(recording)
    halves = [p for p in parts if mainly(p) in ("bfloat16", "float16")]
    if backend is None or not halves:
        return
    if backend in PREFERABLE:
        rests_on = evidence(recording, Change.ATTENTION)
        does = f"Let PyTorch try {PREFERABLE[backend]} first: torch.nn.attention.sdpa_kernel."
    else:
        rests_on, halves = Evidence(), [part for part in halves if part.dispatched]
        does = f'Call {named(halves[:1])}.set_attention_backend("{backend}").'
    if not halves or not is_worth(recording, rests_on):
        return
    yield judged(
        recording,
        "SET004",
        "attention-backend",
        f"{named(halves)}: {backend} would compute attention faster.",
        does,
        fixes=("attention-backend",),
        evidence=rests_on,
    )


PREFERABLE = {
    "_native_flash": "FLASH_ATTENTION",
    "_native_efficient": "EFFICIENT_ATTENTION",
    "_native_math": "MATH",
    "_native_cudnn": "CUDNN_ATTENTION",
}
"""PyTorch's kernels by diffusers' names -> members of `SDPBackend`, in the order in which it tries them."""

FASTER = 0.97
"""Share of its time under which attention counts as faster."""


def best_backend(recording: Recording) -> str | None:
    """The name, for diffusers' dispatcher, of what computes the call's attention clearly faster than now."""
    if not recording.attention:
        return _installed_library(recording)
    whole = sum(row.now_us for row in recording.attention)
    timings = [each for row in recording.attention for each in row.timings]
    names = {each.backend for each in timings if _is_offered(each, recording)}
    best = min(sorted(names), key=lambda name: _under(recording, name), default=None)
    return best if best is not None and _under(recording, best) < FASTER * whole else None


def _under(recording: Recording, backend: str) -> float:
    return sum(row.us(backend) for row in recording.attention or ())


def _is_offered(timing: AttentionTiming, recording: Recording) -> bool:
    """SageAttention computes in 8 bits: shown in the table, not advised. Libraries need the real device."""
    return timing.backend in PREFERABLE or (
        timing.installed and timing.backend != "sage" and recording.device.kind == "cuda"
    )


def _installed_library(recording: Recording) -> str | None:
    """The fastest installed library that this device runs."""
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
    setup = setup_of(recording)
    parts = [part for part in setup.parts if part.fusable and not part.quantized]
    rests_on = evidence(recording, Change.QKV)
    if not parts or not is_worth(recording, rests_on):
        return
    count = sum(part.fusable or 0 for part in parts)
    yield judged(
        recording,
        "SET005",
        "separate-projections",
        f"{count} attention modules of {named(parts)} project query, key and value apart.",
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
    setup = setup_of(recording)
    parts = [part for part in setup.parts if part.adapted]
    if not parts:
        return
    count = sum(part.adapted for part in parts)
    names = ", ".join(setup.adapters)
    yield judged(
        recording,
        "SET006",
        "lora-not-fused",
        f"{count} layers of {named(parts)} compute the adapter {names or 'LoRA'} beside their own weights.",
        "Call pipe.fuse_lora() and pipe.unload_lora_weights().",
        count=count,
        fixes=("fuse-lora", "lora-hotswap"),
        **(
            {"evidence": Evidence(events=_adapter_events(recording), with_modules=True)}
            if setup.offload is None
            else {
                "cost_note": "Offloading moves the adapters' weights too, in copies that are not told apart."
            }
        ),
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
