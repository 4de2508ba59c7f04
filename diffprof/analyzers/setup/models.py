"""Fixes that are other roads: weights for fewer steps, a smaller model, features used again."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.analyzers.setup.alternatives import CACHE_INTERVAL, LCM_STEPS, lcm_weights
from diffprof.analyzers.setup.precision import place
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Skipped, Stage
from diffprof.model.recording import Recording


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


def first_block_cache(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """diffusers' own cache between steps."""
    parts = recording.setup.parts if recording.setup else ()
    cacheable = [part for part in parts if part.role == "denoiser" and part.cacheable and part.cache is None]
    if not cacheable:
        return Skipped("no denoiser of this pipeline takes diffusers' caches")
    lines = [f"{place(part.name)}.enable_cache(FirstBlockCacheConfig(threshold=0.1))" for part in cacheable]
    return Code(imports=("from diffusers import FirstBlockCacheConfig",), optimize="\n".join(lines))


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
            "first-block-cache",
            "Skip blocks whose input hardly changes",
            Safety.LOSSY,
            Stage.MODEL,
            why="Where the first block's residual changes by less than the threshold, the others' result of "
            "the step before is used again.",
        ),
        first_block_cache,
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
