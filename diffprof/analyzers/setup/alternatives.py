"""SET: alternatives, shorter calls for another image: fewer steps, a smaller model, used features."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import compress
from typing import Any

from diffprof.judge.rules import rule
from diffprof.judge.steps import steps_of
from diffprof.judge.timeline import Without, saved_us, total_us
from diffprof.model.finding import Evidence, Finding, Severity
from diffprof.model.recording import Component, Recording
from diffprof.model.units import milliseconds

LCM_STEPS = 4
"""Steps of a pipeline with LCM-LoRA: 2 to 8 (arXiv:2311.05556)."""

MANY_STEPS = 2 * LCM_STEPS

CACHE_INTERVAL = 3
"""Steps of which one runs whole and the others reuse its deep features, as in DeepCache's examples
(github.com/horseee/DeepCache)."""

STEP_CACHES = (
    *("first-block-cache", "first-block-cache-careful"),
    *("taylorseer-cache", "taylorseer-cache-careful", "pyramid-attention", "faster-cache"),
)
"""Fixes that give a denoiser one of diffusers' caches."""

TINY_VAES = {
    (4, 0.18215): "madebyollin/taesd",
    (4, 0.13025): "madebyollin/taesdxl",
    (16, 1.5305): "madebyollin/taesd3",
    (16, 0.3611): "madebyollin/taef1",
}
"""Channels and scaling factor of a VAE's latents, which tell whose they are -> weights of diffusers'
`AutoencoderTiny` that are distilled for them (github.com/madebyollin/taesd)."""

SLOW_DECODING = 0.02
"""Share of the call from which the VAE's part of it is worth a smaller model."""


@rule("SET015", "many-steps", needs=("setup",))
def many_steps(recording: Recording) -> Iterator[Finding]:
    """The denoiser runs in more steps than a distilled one needs.

    What it does:
        Reports calls of more than 8 steps with a denoiser for which LCM-LoRA weights are published (SDXL,
        SSD-1B, Stable Diffusion 1.5). The price is the timeline with 4 steps instead.

    Why it is slow:
        Every step runs the whole denoiser. Distilled weights come to a picture in 4 to 8.

    Example:
        pipe(prompt, num_inference_steps=30)

    Use instead:
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
        pipe.load_lora_weights("latent-consistency/lcm-lora-sdxl")
        pipe(prompt, num_inference_steps=4, guidance_scale=1.0)

    Fix safety:
        Advice: other weights and other steps make another picture, of other quality; look at it.
    """
    steps = recording.target.steps or 0
    weights = lcm_weights(recording)
    # Schedulers for consistency distillation (LCM, TCD) know how many steps the weights were distilled from.
    distilled = any(
        c.role == "scheduler" and "original_inference_steps" in c.config for c in recording.target.components
    )
    if weights is None or steps <= MANY_STEPS or distilled:
        return
    yield _alternative(
        recording,
        "SET015",
        "many-steps",
        f"{steps} steps; with {weights} {LCM_STEPS} to {MANY_STEPS} would do.",
        "Try LCM-LoRA with LCMScheduler, 4 to 8 steps.",
        saves_ms=_fewer_steps_ms(recording, LCM_STEPS),
        cost_note=f"With {LCM_STEPS} steps; without guidance each of them takes about half as long.",
        fixes=("lcm-lora",),
    )


@rule("SET016", "features-recomputed", needs=("setup",))
def features_recomputed(recording: Recording) -> Iterator[Finding]:
    """Neighbouring steps compute nearly the same deep features.

    What it does:
        For denoisers that take diffusers' caches, and for UNets, for which DeepCache is the published way.
        For UNets the price is the timeline with two steps of three running only their outermost blocks.

    Why it is slow:
        What the inner blocks compute changes slowly from step to step. Published for Stable Diffusion 1.5:
        2.3x less time at a CLIP score 0.05 lower (arXiv:2312.00858).

    Example:
        pipe(prompt, num_inference_steps=30)

    Use instead:
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
        or, for a UNet, DeepCacheSDHelper(pipe=pipe) from the package DeepCache.

    Fix safety:
        Lossy: what is not computed is taken from an earlier step.
    """
    assert recording.setup is not None
    steps = recording.target.steps or 0
    denoisers = [part for part in recording.setup.parts if part.role == "denoiser" and part.cache is None]
    if steps <= MANY_STEPS or not denoisers:
        return
    cacheable = [part for part in denoisers if part.cacheable]
    outer = None if cacheable else _outermost(recording, denoisers[0].name)
    if not cacheable and outer is None:
        return
    rests_on = Evidence() if outer is None else Evidence(events=outer)
    yield _alternative(
        recording,
        "SET016",
        "features-recomputed",
        f"{(cacheable or denoisers)[0].name} computes all its features anew in each of {steps} steps.",
        "Reuse features between steps: diffusers' caches, or DeepCache for a UNet.",
        cost_note="What it saves is unknown until it is measured."
        if outer is None
        else "Two steps of three run outer blocks only.",
        fixes=STEP_CACHES if cacheable else ("deep-cache",),
        evidence=rests_on,
    )


@rule("SET017", "undistilled-model", needs=("setup",))
def undistilled_model(recording: Recording) -> Iterator[Finding]:
    """A distilled model of the same kind is published.

    What it does:
        Recognizes SDXL's UNet by its configuration. The price is the timeline without the blocks that SSD-1B
        leaves out. Where the VAE takes 2 % of the call or more, it recognizes the latents of Stable Diffusion
        1, 2, XL and 3 and of Flux by the VAE's configuration: for each a tiny VAE is published (TAESD).

    Why it is slow:
        SSD-1B leaves out 1.3 of 2.6 billion parameters, and was trained to make the same pictures. TAESD's
        decoder has 1.2 million parameters, of Stable Diffusion's 49 million.

    Example:
        pipe = StableDiffusionXLPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0")

    Use instead:
        pipe = StableDiffusionXLPipeline.from_pretrained("segmind/SSD-1B")
        pipe.vae = AutoencoderTiny.from_pretrained("madebyollin/taesdxl", dtype=pipe.vae.dtype).to("cuda")

    Fix safety:
        Advice: another model makes other pictures. The tiny VAE is lossy: fine details are others.
    """
    yield from _tiny_vae_published(recording)
    unet = _denoiser(recording)
    if unet is None or not _is_sdxl(unet):
        return
    gone = left_out_by_ssd_1b(recording, unet.name)
    yield _alternative(
        recording,
        "SET017",
        "undistilled-model",
        f"{unet.name} is SDXL's; SSD-1B, distilled from it, has half its parameters.",
        "Try segmind/SSD-1B with the same pipeline.",
        cost_note="This call without the blocks that SSD-1B leaves out."
        if gone
        else "What it saves is unknown until it is measured.",
        fixes=("ssd-1b",),
        evidence=Evidence(events=gone),
    )


def _tiny_vae_published(recording: Recording) -> Iterator[Finding]:
    timeline = recording.timeline
    for vae in recording.target.components if timeline else ():
        weights = tiny_vae(vae)
        if weights is None:
            continue
        assert timeline is not None
        modules = {n for n, name in enumerate(timeline.modules) if f"{name}.".startswith(f"{vae.name}.")}
        events = frozenset(n for n, module in enumerate(timeline.module) if module in modules)
        taken, whole = saved_us(timeline, Without(events=events)), total_us(timeline)
        if taken < SLOW_DECODING * whole:
            continue
        yield _alternative(
            recording,
            "SET017",
            "undistilled-model",
            f"{vae.name} takes {milliseconds(taken / 1e3)} of {milliseconds(whole / 1e3)}; {weights} is "
            "tiny, and distilled for the same latents.",
            "Try AutoencoderTiny, and look at fine details.",
            kind="undistilled-vae",
            phase="decode",
            cost_note="What it saves is known when the tiny one was simulated in its place.",
            fixes=("tiny-vae",),
        )


def tiny_vae(vae: Component) -> str | None:
    """The published weights of a tiny VAE for a VAE's latents, told from its configuration."""
    config = vae.config
    if vae.role != "vae" or len(config.get("block_out_channels") or ()) != 4:  # the tiny one doubles thrice
        return None
    channels, scaling = config.get("latent_channels"), config.get("scaling_factor")
    if not (isinstance(channels, int) and isinstance(scaling, float)):
        return None
    return TINY_VAES.get((channels, scaling))


def _alternative(
    recording: Recording, code: str, name: str, message: str, advice: str, **more: Any
) -> Finding:
    timeline = recording.timeline
    return Finding(
        **{
            "rule": code,
            "name": name,
            "kind": name,
            "message": message,
            "advice": advice,
            "severity": Severity.INFO,
            "standing": True,
            "grade": timeline.grade if timeline else recording.device.grade,
            **more,
        }
    )


# --- which models ----------------------------------------------------------------------------------------


def _denoiser(recording: Recording) -> Component | None:
    return next((c for c in recording.target.components if c.role == "denoiser"), None)


def _depths(component: Component) -> list[int]:
    """Transformer layers of each block of a UNet."""
    value = component.config.get("transformer_layers_per_block")
    return [each for each in value if isinstance(each, int)] if isinstance(value, list) else []


def _is_sdxl(component: Component) -> bool:
    return component.config.get("cross_attention_dim") == 2048 and _depths(component) == [1, 2, 10]


def lcm_weights(recording: Recording) -> str | None:
    """The published LCM-LoRA for the denoiser, told from its configuration."""
    unet = _denoiser(recording)
    if unet is None or "block_out_channels" not in unet.config:
        return None
    width = unet.config.get("cross_attention_dim")
    if _is_sdxl(unet):
        return "latent-consistency/lcm-lora-sdxl"
    if width == 2048 and unet.config.get("block_out_channels") == [320, 640, 1280]:
        return "latent-consistency/lcm-lora-ssd-1b"
    if width == 768 and unet.config.get("block_out_channels") == [320, 640, 1280, 1280]:
        return "latent-consistency/lcm-lora-sdv1-5"
    return None


# --- prices ----------------------------------------------------------------------------------------------


def _fewer_steps_ms(recording: Recording, steps: int) -> float | None:
    """What the call saves with fewer steps: the middle ones left out of the timeline."""
    timeline = recording.timeline
    if timeline is None:
        return None
    spans = steps_of(timeline)
    if len(spans) <= steps:
        return None
    left_out = spans[1 : 1 + len(spans) - steps]
    events = frozenset(range(left_out[0][0], left_out[-1][1]))
    return saved_us(timeline, Without(events=events)) / 1e3


@cache
def _ssd_1b() -> dict[str, Any]:
    """The configuration of SSD-1B's UNet."""
    file = files("diffprof.targets.architectures").joinpath("ssd-1b/unet/config.json")
    config: dict[str, object] = json.loads(file.read_text(encoding="utf-8"))
    return config


_LAYER = re.compile(r"\.(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.transformer_blocks\.(\d+)(?:\.|$)")
_MIDDLE = re.compile(r"\.mid_block\.(?:attentions|resnets\.[1-9])(?:\.|$)")


def left_out_by_ssd_1b(recording: Recording, denoiser: str) -> tuple[int, ...]:
    """Events of the blocks of SDXL's UNet that SSD-1B's does not have."""
    timeline = recording.timeline
    if timeline is None:
        return ()
    config = _ssd_1b()
    depths = {
        "down": config["transformer_layers_per_block"],
        "up": config["reverse_transformer_layers_per_block"],
    }

    def gone(module: str) -> bool:
        layer = _LAYER.search(module)
        if layer is None:
            return config["mid_block_type"] == "UNetMidBlock2D" and bool(_MIDDLE.search(module))
        blocks = depths[layer[1]][int(layer[2])]
        return int(layer[4]) >= (blocks[int(layer[3])] if isinstance(blocks, list) else blocks)

    modules = {
        number
        for number, name in enumerate(timeline.modules)
        if name.startswith(denoiser + ".") and gone(name)
    }
    return tuple(event for event, module in enumerate(timeline.module) if module in modules)


_BLOCK = re.compile(r"\.(down_blocks|up_blocks|mid_block)(?:\.(\d+))?(?:\.|$)")


def _outermost(recording: Recording, denoiser: str) -> tuple[int, ...] | None:
    """Events of the inner blocks of a UNet in the steps that would reuse features; None for other models."""
    timeline = recording.timeline
    if timeline is None:
        return None
    blocks: dict[int, tuple[str, int]] = {}
    for n, name in enumerate(timeline.modules):
        match = _BLOCK.search(name) if name.startswith(denoiser + ".") else None
        if match is not None:
            blocks[n] = (match[1], int(match[2] or 0))
    ups = [number for kind, number in blocks.values() if kind == "up_blocks"]
    if not ups or not any(kind == "down_blocks" for kind, _ in blocks.values()):
        return None
    outer = {("down_blocks", 0), ("up_blocks", max(ups))}
    inner = {n for n, block in blocks.items() if block not in outer}
    events: list[int] = []
    for step, (first, last) in enumerate(steps_of(timeline)):
        if step % CACHE_INTERVAL:
            events += compress(range(first, last), map(inner.__contains__, timeline.module[first:last]))
    return tuple(events)
