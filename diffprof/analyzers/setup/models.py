"""Fixes that are alternatives: weights for fewer steps, a smaller model, features used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffprof.analyzers.setup.alternatives import (
    CACHE_INTERVAL,
    LCM_STEPS,
    TINY_VAES,
    lcm_weights,
    tiny_vae,
)
from diffprof.analyzers.setup.precision import place
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Skipped, Stage, Write
from diffprof.model.pipeline import with_role
from diffprof.model.recording import Recording
from diffprof.model.recording.source_text import quoted

if TYPE_CHECKING:
    from diffprof.model.pipeline import Pipeline


def lcm_lora(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Published LCM-LoRA weights, merged, with their scheduler and few steps."""
    weights = lcm_weights(recording)
    if weights is None:
        return Skipped("no LCM-LoRA is published for this denoiser")
    return Code(
        imports=("from diffusers import LCMScheduler",),
        optimize="\n".join(
            [
                "pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)",
                f'pipe.load_lora_weights("{weights}")',
                "pipe.fuse_lora()",
                "pipe.unload_lora_weights()",
            ]
        ),
        # Guidance is in the distilled weights: 1.0 switches it off.
        call=f'kwargs["num_inference_steps"] = {LCM_STEPS}\nkwargs["guidance_scale"] = 1.0',
    )


def ssd_1b(recording: Recording, findings: Sequence[Finding]) -> Code:
    """SSD-1B's UNet in the place of SDXL's."""
    return Code(
        imports=("from diffusers import UNet2DConditionModel",),
        optimize="\n".join(
            [
                "pipe.unet = UNet2DConditionModel.from_pretrained(",
                '    "segmind/SSD-1B", subfolder="unet", dtype=pipe.unet.dtype',
                ").to(pipe.unet.device)",
            ]
        ),
    )


def _tiny(recording: Recording, made: str) -> Code | Skipped:
    """made: an expression that makes the model, with the weights' name and the place of the one before."""
    found = {vae.name: weights for vae in recording.target.components if (weights := tiny_vae(vae))}
    if not found:
        return Skipped("no tiny VAE is published for these latents")
    lines = [f"{place(name)} = {made.format(weights, place(name))}" for name, weights in found.items()]
    return Code(imports=("from diffusers import AutoencoderTiny",), optimize="\n".join(lines))


def tiny_vae_loaded(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """TAESD's weights for the pipeline's latents."""
    made = 'AutoencoderTiny.from_pretrained(\n    "{0}", dtype={1}.dtype\n).to({1}.device)'
    return _tiny(recording, made)


def tiny_vae_without_weights(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """The same model of random weights: it takes as long."""
    made = (
        "AutoencoderTiny(\n    latent_channels={1}.config.latent_channels\n).to({1}.device, {1}.dtype).eval()"
    )
    return _tiny(recording, made)


def _takes_tiny_vae(pipe: Pipeline) -> str | None:
    import inspect

    from huggingface_hub import try_to_load_from_cache

    from diffprof.devices.simulated import is_simulated

    for vae in with_role(pipe, "vae").values():
        if "num_frames" in inspect.signature(vae.decode).parameters:
            return "its decoder computes with neighbouring frames"
        weights = TINY_VAES.get((vae.config.get("latent_channels"), vae.config.get("scaling_factor")))
        real = not any(is_simulated(p) for p in vae.parameters())
        if weights and real and not isinstance(try_to_load_from_cache(weights, "config.json"), str):
            return f"its weights are not on this machine; `hf download {weights}` fetches them"
    return None


def lora_hotswap(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Adapters of one size, whose weights are replaced in place."""
    setup = recording.setup
    if setup is None or not any(part.compiled for part in setup.parts if part.adapted):
        return Skipped("nothing that has adapters is compiled: another one may be loaded as it is")
    name = next(iter(setup.adapters), "style")
    return Code(
        optimize="\n".join(
            [
                "# Before the first adapter is loaded, with the largest rank of all that will be.",
                "pipe.enable_lora_hotswap(target_rank=128)",
                f'pipe.load_lora_weights("first.safetensors", adapter_name={quoted(name)})',
                "# Compile and call it, then swap:",
                f'pipe.load_lora_weights("next.safetensors", adapter_name={quoted(name)}, hotswap=True)',
            ]
        )
    )


CACHES = {
    "first-block-cache": "FirstBlockCacheConfig(threshold=0.1)",
    "first-block-cache-careful": "FirstBlockCacheConfig(threshold=0.05)",
    "taylorseer-cache": "TaylorSeerCacheConfig(cache_interval=5, max_order=1)",
    "taylorseer-cache-careful": "TaylorSeerCacheConfig(cache_interval=3, max_order=1)",
    "pyramid-attention": "PyramidAttentionBroadcastConfig(\n"
    "    spatial_attention_block_skip_range=2,\n"
    "    current_timestep_callback=lambda: pipe.current_timestep,\n"
    ")",
    "faster-cache": "FasterCacheConfig(\n"
    "    unconditional_batch_skip_range=5,\n"
    "    current_timestep_callback=lambda: pipe.current_timestep,\n"
    '    tensor_format="BCHW",  # the frequencies are those of the last two dimensions\n'
    ")",
}
"""diffusers' caches between steps, each at thresholds from its documentation -> how it is configured."""


def _cache(key: str) -> Write:
    def code(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
        parts = recording.setup.parts if recording.setup else ()
        taking = [p for p in parts if p.role == "denoiser" and p.cacheable and p.cache is None]
        if not taking:
            return Skipped("no denoiser of this pipeline takes diffusers' caches")
        config = CACHES[key]
        return Code(
            imports=(f"from diffusers import {config.partition('(')[0]}",),
            optimize="\n".join(f"{place(part.name)}.enable_cache({config})" for part in taking),
        )

    return code


def _tells_timestep(pipe: object) -> str | None:
    told = hasattr(type(pipe), "current_timestep")
    return None if told else "the pipeline does not tell its current timestep"


def _guides_grids_in_one_batch(pipe: object) -> str | None:
    """What FasterCache needs: it takes what a denoiser gives apart into the two halves of guidance, and each
    into frequencies of its height and width."""
    if hasattr(pipe, "_pack_latents"):
        return "the denoiser gives rows of packed latents, which have no height and width"
    return _tells_timestep(pipe)


_FITS = {"pyramid-attention": _tells_timestep, "faster-cache": _guides_grids_in_one_batch}


def deep_cache(recording: Recording, findings: Sequence[Finding]) -> Code:
    """DeepCache, a package of its own."""
    return Code(
        imports=("from DeepCache import DeepCacheSDHelper",),
        optimize="\n".join(
            [
                "helper = DeepCacheSDHelper(pipe=pipe)",
                f"helper.set_params(cache_interval={CACHE_INTERVAL}, cache_branch_id=0)",
                "helper.enable()",
            ]
        ),
    )


_BLOCKS = (
    "Where the first block's residual changes by less than the threshold, the others' result of the step "
    "before is used again."
)
_HITS = (
    "how many steps it skips depends on real weights; here all after the first were assumed to be skipped, "
    "the most that it can save"
)
_SERIES = "What attention gives is computed in some steps and continued from there as a Taylor series."
_LOSS = "when it computes is known, what the image loses by it depends on real weights"

_ABOUT = {
    "first-block-cache": ("Skip blocks whose input hardly changes", _BLOCKS, _HITS),
    "first-block-cache-careful": ("Skip blocks whose input changed by less than 5 %", _BLOCKS, _HITS),
    "taylorseer-cache": ("Compute attention in every fifth step, and extrapolate it", _SERIES, _LOSS),
    "taylorseer-cache-careful": ("Compute attention in every third step, and extrapolate it", _SERIES, _LOSS),
    "pyramid-attention": (
        "Reuse attention of the step before, in the middle of the schedule",
        "Between timesteps 100 and 800 every second step takes what attention gave in the one before.",
        _LOSS,
    ),
    "faster-cache": (
        "Guess the half without the prompt in four steps of five (FasterCache)",
        "Below timestep 641 only the half with the prompt runs; the other is its frequencies and what they "
        "differed by before. Below 681 every second step reuses attention. Its mask is sent in each step, "
        "which waits.",
        _LOSS,
    ),
}
"""Of each cache: title, why, and what a pipeline without weights does not tell."""

RECIPES = (
    Recipe(
        Fix(
            "lcm-lora",
            f"Make the picture in {LCM_STEPS} steps, with LCM-LoRA",
            Safety.ADVICE,
            Stage.MODEL,
            conflicts={"deep-cache": "with four steps there is nothing to reuse"},
            why="Weights distilled for few steps make another picture, of other quality: a choice to be made "
            "by eye. They come from the hub.",
        ),
        lcm_lora,
    ),
    Recipe(
        Fix(
            "ssd-1b",
            "Take SSD-1B, distilled from SDXL",
            Safety.ADVICE,
            Stage.MODEL,
            goals=("latency", "memory"),
            why="Half of the parameters, trained to make SDXL's pictures; another model all the same.",
        ),
        ssd_1b,
    ),
    Recipe(
        Fix(
            "tiny-vae",
            "Decode with a tiny VAE (TAESD)",
            Safety.LOSSY,
            Stage.MODEL,
            goals=("latency", "memory"),
            why="Distilled from the pipeline's VAE, for the same latents: fine details are made up "
            "otherwise. The weights come from the hub.",
        ),
        tiny_vae_loaded,
        fits=_takes_tiny_vae,
        not_on_cpu="the picture depends on weights that are on the hub; a model of random ones took as long",
        stand_in=tiny_vae_without_weights,
    ),
    Recipe(
        Fix(
            "lora-hotswap",
            "Swap adapters in place, without compiling again",
            Safety.ADVICE,
            Stage.LORA,
            conflicts={"fuse-lora": "an adapter that is merged can't be swapped"},
            why="Compiled code is bound to the adapter's tensors and their rank: another adapter compiles it "
            "again. With all padded to one rank, hotswap=True copies new weights into the same tensors. It "
            "has to be said before the first adapter is loaded (diffusers' documentation of LoRA); what it "
            "saves is the compile of each swap.",
        ),
        lora_hotswap,
    ),
    *(
        Recipe(
            Fix(
                key,
                title,
                Safety.LOSSY,
                Stage.MODEL,
                conflicts=dict.fromkeys(list(CACHES)[n + 1 :], "a denoiser has one cache"),
                why=why,
            ),
            _cache(key),
            fits=_FITS.get(key),
            not_on_cpu=unknown,
        )
        for n, (key, (title, why, unknown)) in enumerate(_ABOUT.items())
    ),
    Recipe(
        Fix(
            "deep-cache",
            "Reuse the UNet's features (DeepCache)",
            Safety.ADVICE,
            Stage.MODEL,
            why="A package of its own patches the UNet: two steps of three run its outermost blocks only. "
            "Published for Stable Diffusion 1.5: 2.3x less time at a CLIP score 0.05 lower "
            "(arXiv:2312.00858).",
        ),
        deep_cache,
    ),
)
