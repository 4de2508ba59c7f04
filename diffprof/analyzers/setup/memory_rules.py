"""SET007 to SET009: pieces of the decoding, and weights that move."""

from __future__ import annotations

from collections.abc import Iterator

from diffprof.analyzers.setup.judging import AMPLE, judged, named, setup_of
from diffprof.judge.fitting import NOTICEABLE, gib, halving_makes_room, needed_on_device, shortfall
from diffprof.judge.rules import rule
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import MemoryHolder, MemoryKind, MemoryUse, Recording

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
    setup, memory = setup_of(recording), recording.memory
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
    yield judged(
        recording,
        "SET007",
        "vae-in-pieces",
        f"{named(pieces)} decodes with {how}; "
        f"the peak is {gib(memory.peak_bytes)} of {gib(memory.capacity_bytes)} GiB.",
        f"Switch {how} off.",
        phase="decode",
        severity=Severity.LOW,
        fixes=(*(("vae-untiled",) if tiled else ()), *(("vae-unsliced",) if sliced else ())),
    )


@rule("SET008", "does-not-fit", needs=("setup", "memory"))
def does_not_fit(recording: Recording) -> Iterator[Finding]:
    """The call takes more memory than the device has.

    What it does:
        Compares the peak of every phase with the device's memory.

    Why it is slow:
        It fails with an out-of-memory error, or the driver pages through the CPU's memory. Weights in half
        precision take half the room; offloading keeps on the device only the model that runs; a VAE that
        decodes in tiles takes memory by the tile's size, whatever the picture's.

    Example:
        pipe(prompt, height=4096, width=4096)

    Use instead:
        pipe.vae.enable_tiling()            # too much in decoding
        pipe.enable_model_cpu_offload()     # too much in another phase

    Fix safety:
        Lossy for tiling: tiles are decoded apart and blended where they overlap. Offloading is exact.
    """
    setup, short = setup_of(recording), shortfall(recording.memory)
    memory = recording.memory
    if short is None or memory is None:
        return
    least = NOTICEABLE * short.lacks_bytes
    tiles = _decoding_takes(memory, short.has_bytes) and any(part.tiling is False for part in setup.parts)
    advice = []
    if (own := _kept_by_the_user(memory)) is not None and own.site is not None and own.bytes > least:
        advice.append(f"keep less of what {own.site.file}:{own.site.line} makes ({gib(own.bytes)} GiB)")
    if halving_makes_room(setup, short):
        advice.append("load the models in half precision")
    weights = memory.weights_bytes is None or memory.weights_bytes > least
    if setup.offload is None and set(short.over) != {"decode"} and weights:
        advice.append("keep models on the host until they run (pipe.enable_model_cpu_offload())")
    if tiles:
        advice.append("decode in tiles")
    if setup.offload == "model" and "denoise" in short.over:
        advice.append(
            "keep less than a whole model on the device (pipe.enable_group_offload()), or quantize it"
        )
    how = "; ".join(advice) or "make fewer or smaller pictures in one call, or take a larger device"
    yield judged(
        recording,
        "SET008",
        "does-not-fit",
        f"The call needs {gib(short.needs_bytes)} GiB {short.where}, the device has "
        f"{gib(short.has_bytes)} GiB.",
        f"{how[0].upper()}{how[1:]}.",
        phase=short.phase or None,
        severity=Severity.HIGH,
        # Where the weights alone are too large, tiles make nothing fit.
        fixes=("vae-tiled",) if tiles and (memory.weights_bytes or 0) < short.has_bytes else (),
    )


def _decoding_takes(memory: MemoryUse, has: int) -> bool:
    """Whether what decoding adds to what was there is a noticeable part of what it lacks."""
    peak = memory.by_phase.get("decode", 0)
    if memory.at_peak is not None and memory.peak_phase == "decode":
        added = sum(holder.bytes for holder in memory.at_peak if holder.phase == "decode")
    else:
        added = peak - (memory.by_step[-1] if memory.by_step else memory.weights_bytes or 0)
    return peak > has and added > NOTICEABLE * (peak - has)


def _kept_by_the_user(memory: MemoryUse) -> MemoryHolder | None:
    """The line of the user's own that holds most when most is in use."""
    weights = MemoryKind.WEIGHTS, MemoryKind.IDLE_WEIGHTS
    own = [h for h in memory.at_peak or () if h.site and h.site.user_code and h.kind not in weights]
    return max(own, key=lambda holder: holder.bytes, default=None)


@rule("SET009", "needless-offload", needs=("setup",))
def needless_offload(recording: Recording) -> Iterator[Finding]:
    """Weights are kept on the host and moved in every call, although they would fit on the device.

    What it does:
        Looks for the hooks of accelerate's and diffusers' offloading, and compares weights and activations
        with the device's memory.

    Why it is slow:
        All weights cross the link in every call (4.8 GiB of SDXL's UNet in half precision: 0.2 s at 25 GB/s);
        with sequential offloading in every step, one layer at a time.

    Example:
        pipe.enable_model_cpu_offload()

    Use instead:
        pipe.to("cuda")

    Fix safety:
        Exact: the same weights, in another place.
    """
    setup = setup_of(recording)
    if setup.offload is None:
        return
    room = recording.device.memory_bytes
    _, need = needed_on_device(setup, recording.memory)
    if recording.device.kind == "cpu" or room is None or need > AMPLE * room:
        return
    yield judged(
        recording,
        "SET009",
        "needless-offload",
        f"{setup.offload} offloading moves weights in every call; about {gib(need)} GiB are needed, "
        f"the device has {gib(room)} GiB.",
        "Keep the pipeline on the device: pipe.to(device) instead of offloading.",
        severity=Severity.HIGH,
        fixes=("replace-offload",),
        evidence=Evidence(syncs=tuple(n for n, row in enumerate(recording.syncs or ()) if row.offload)),
    )
