"""SET010 to SET014: layout, compilation, what is drawn, INT8."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from diffprof.analyzers.setup.judging import HEAVY, heavy, is_worth, judged, named, setup_of
from diffprof.gpu.inductor_flags import FLAGS
from diffprof.judge.half_types import is_float16_only
from diffprof.judge.rules import rule
from diffprof.judge.setup_costs import compile_fixes, evidence
from diffprof.model.finding import Finding, Severity
from diffprof.model.recording import Change, Recording

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
    parts = heavy(setup_of(recording), lambda part: part.convs > 4 and not part.convs_channels_last)
    if not parts:
        return
    yield judged(
        recording,
        "SET010",
        "contiguous-convolutions",
        f"{sum(part.convs for part in parts)} convolutions of {named(parts)} are in the default order.",
        "Put the models with convolutions into torch.channels_last.",
        severity=Severity.LOW,
        count=sum(part.convs for part in parts),
        fixes=("channels-last",),
    )


@rule("SET011", "not-compiled", needs=("setup",))
def not_compiled(recording: Recording) -> Iterator[Finding]:
    """The denoiser runs eagerly.

    What it does:
        Looks for denoisers that are not compiled, as a whole or by block, and names the VAE with them where
        its decoder can be compiled too. On a simulated GPU the same
        operations are costed again as a compiled graph; on others it has to be tried.

    Why it is slow:
        Chains of small operations each read and write memory where one generated kernel would do, layouts are
        converted around convolutions, and every launch costs the host time. Published for SDXL on an A100:
        3.32 s become 2.54 s.

    Example:
        pipe.unet(...)

    Use instead:
        pipe.unet.compile(mode="max-autotune", fullgraph=True)
        pipe.unet.compile_repeated_blocks(fullgraph=True)       # Flux: 9.6 s of compiling, not 67.4

    Fix safety:
        Numeric: fused kernels round less often.
    """
    setup = setup_of(recording)
    fixes = compile_fixes(recording)
    if not fixes:
        return
    # The VAE decodes once a call: compiling it goes with the whole of the denoiser, not with its blocks.
    roles = HEAVY if "compile" in fixes else ("denoiser",)
    parts = [part for role in roles for part in setup.parts if part.role == role and part.compiled is None]
    decoder = " and the VAE's decoder" if any(part.role == "vae" for part in parts) else ""
    rests_on = evidence(recording, Change.COMPILED if "compile" in fixes else Change.COMPILED_BLOCKS)
    if not is_worth(recording, rests_on):
        return
    yield judged(
        recording,
        "SET011",
        "not-compiled",
        f"{named(parts)} run{'s' if len(parts) == 1 else ''} eagerly: each operation is a kernel of its own.",
        f"Compile the denoiser{decoder}.",
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
    setup = setup_of(recording)
    if recording.device.kind != "cuda" or not setup.inductor:
        return
    parts = [part for part in setup.parts if part.compiled and part.role in HEAVY]
    other = [name for name, wanted in FLAGS.items() if setup.inductor.get(name, wanted) is not wanted]
    if not parts or not other:
        return
    yield judged(
        recording,
        "SET012",
        "inductor-flags",
        f"{named(parts)} is compiled with Inductor's defaults for {', '.join(other)}.",
        "Pass the published recipe's flags as options of the compilation.",
        severity=Severity.INFO,
        fixes=("compile",),
    )


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
    if not setup_of(recording).progress_bar:
        return
    yield judged(
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
        become 2.43 s; small or short linears lose, so the choice matters. Not in float16: torchao rounds the
        products to it before it scales them, and they leave its range. The fix takes bfloat16 then; where the
        device has none, nothing is reported.

    Example:
        pipe.unet.compile()                                     # all linears in bfloat16

    Use instead:
        quantize_(pipe.unet, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False), filter_fn)
        before compiling, with a filter for the linears that gain.

    Fix safety:
        Lossy: weights and activations are rounded to 8 bits.
    """
    if recording.quantization is not None or is_float16_only(recording):
        return
    setup = setup_of(recording)
    parts = heavy(setup, lambda part: part.linears and not part.quantized)
    # What INT8 saves is known of all parts together only.
    if not parts or any(part.left_as_is for part in parts):
        return
    rests_on = evidence(recording, Change.INT8)
    if setup.costs is None:
        large = _large_linears(recording)
        if not large:
            return
        message = f"{named(parts)}: linears in 16 or 32 bits; which of them gain has to be measured."
    else:
        if not is_worth(recording, rests_on):
            return
        faster = len({_shape(p) for p in setup.costs.projections if p.int8_us < p.now_us})
        message = f"{named(parts)}: INT8 would make linears and 1x1 convolutions of {faster} shapes faster."
    yield judged(
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
        part.role == "denoiser" and sum(part.dtypes.values()) >= 2 * 10**8
        for part in setup_of(recording).parts
    )
