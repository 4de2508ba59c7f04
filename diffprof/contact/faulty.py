"""Pipelines with faults that were put in: DDIM, whose tables stay on the CPU while its steps are on the
device; attention computed in pieces; float32; a VAE in tiles and slices for one small image."""

from __future__ import annotations

from typing import Any

from diffprof.contact.pipelines import SD_VAE
from diffprof.model.pipeline import Pipeline

PLANTED = (
    *("host-timesteps", "bfloat16", "sdpa", "tf32", "channels-last", "fuse-qkv"),
    *("vae-untiled", "vae-unsliced", "no-progress-bar"),
)
"""Fixes of what was put in, the most important first; those that a device has no use for are not planned."""


def faulty() -> tuple[object, dict[str, object]]:
    """The tiny SDXL, with values."""
    import torch

    from diffprof.devices import resolve_device
    from diffprof.targets import Options, resolve

    made: list[Any] = []
    target = resolve("tiny-sdxl")
    with torch.random.fork_rng(devices=[]):
        target.run(lambda call: made.append((call.pipe, call.kwargs)), resolve_device("cpu"), Options())
    pipe, kwargs = made[0]
    _plant(pipe)
    return pipe, {**kwargs, "num_inference_steps": 3, "height": 64, "width": 64, "output_type": "pt"}


def faulty_sd15() -> tuple[object, dict[str, object]]:
    """Stable Diffusion 1.5 with random weights in float32, so that what fixes save can be measured."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    with torch.device("cuda"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        vae = AutoencoderKL(**SD_VAE)
        prompts = [torch.randn(1, 77, 768) for _ in range(2)]
    pipe = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=None,  # type: ignore[arg-type]
        tokenizer=None,  # type: ignore[arg-type]
        unet=unet.eval(),
        scheduler=DDIMScheduler(),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )
    _plant(pipe)
    given = dict(zip(("prompt_embeds", "negative_prompt_embeds"), prompts, strict=True))
    return pipe, {**given, "num_inference_steps": 5, "height": 512, "width": 512, "output_type": "pt"}


def _plant(pipe: Pipeline) -> None:
    from diffusers import DDIMScheduler
    from diffusers.models.attention_processor import AttnProcessor

    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.unet.set_attn_processor(AttnProcessor())
    pipe.vae.enable_tiling()
    pipe.vae.enable_slicing()
