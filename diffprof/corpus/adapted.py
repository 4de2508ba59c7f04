"""Pipelines changed after they were built: LoRA, offloading, hooks, caches, slicing, tiling, other dtypes."""

from __future__ import annotations

from typing import Any

import diffusers as df
import torch

from diffprof.model.pipeline import Pipeline

from . import CorpusCase, case
from .image_joint import flux_parts, flux_transformer, sd3_parts
from .image_transformer import SHORT
from .parts import BETAS, WIDTH, call, sd, sd_xl, unet, xl_unet
from .video_wan import FRAMES, wan_parts, wan_sizes

SMALL = {"height": 32, "width": 32}


# ---- LoRA ----------------------------------------------------------------------------------------


def lora_weights(model: torch.nn.Module, prefix: str, rank: int = 2) -> dict[str, torch.Tensor]:
    """A random LoRA of a model's attention projections, keyed as diffusers saves it."""
    weights: dict[str, torch.Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.endswith(("to_q", "to_k", "to_v", "q_proj", "v_proj")):
            weights[f"{prefix}.{name}.lora_A.weight"] = torch.randn(rank, layer.in_features) * 0.2
            weights[f"{prefix}.{name}.lora_B.weight"] = torch.randn(layer.out_features, rank) * 0.2
    return weights


@case("sdxl-lora-two-adapters", family="adapted", denoiser="unet")
def xl_lora() -> CorpusCase:
    pipe = df.StableDiffusionXLPipeline(**sd_xl())
    style = lora_weights(pipe.unet, "unet") | lora_weights(pipe.text_encoder, "text_encoder")
    subject = lora_weights(pipe.unet, "unet")
    pipe.load_lora_weights(style, adapter_name="style")
    pipe.load_lora_weights(subject, adapter_name="subject")
    pipe.set_adapters(["style", "subject"], adapter_weights=[0.8, 0.5])
    return CorpusCase(pipe, call(cross_attention_kwargs={"scale": 0.7}, **SMALL))


@case("sd15-lora-fused", family="adapted", denoiser="unet")
def sd_lora_fused() -> CorpusCase:
    pipe = df.StableDiffusionPipeline(**sd())
    pipe.load_lora_weights(lora_weights(pipe.unet, "unet"), adapter_name="style")
    pipe.fuse_lora(lora_scale=0.7)
    return CorpusCase(pipe, call(**SMALL))


@case("flux-lora", family="adapted", denoiser="transformer")
def flux_lora() -> CorpusCase:
    pipe = df.FluxPipeline(**flux_parts())
    pipe.load_lora_weights(lora_weights(pipe.transformer, "transformer"), adapter_name="style")
    return CorpusCase(pipe, call(joint_attention_kwargs={"scale": 0.5}, **SMALL, **SHORT))


@case("wan-lora", family="adapted", denoiser="transformer")
def wan_lora() -> CorpusCase:
    pipe = df.WanPipeline(**wan_parts())
    pipe.load_lora_weights(lora_weights(pipe.transformer, "transformer"), adapter_name="style")
    return CorpusCase(pipe, call(**FRAMES))


# ---- offloading ----------------------------------------------------------------------------------


def offload_models(pipe: Pipeline, device: torch.device) -> None:
    pipe.enable_model_cpu_offload(device=device)


def offload_layers(pipe: Pipeline, device: torch.device) -> None:
    pipe.enable_sequential_cpu_offload(device=device)


def offload_leaves(pipe: Pipeline, device: torch.device) -> None:
    pipe.enable_group_offload(
        onload_device=device, offload_device=torch.device("cpu"), offload_type="leaf_level", use_stream=False
    )


def offload_blocks(pipe: Pipeline, device: torch.device) -> None:
    """The denoiser by blocks, the rest on the device."""
    pipe.transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
    )
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module) and name != "transformer":
            part.to(device)


@case("sdxl-model-offload", family="adapted", denoiser="unet")
def xl_model_offload() -> CorpusCase:
    return CorpusCase(df.StableDiffusionXLPipeline(**sd_xl()), call(**SMALL), offload=offload_models)


@case("flux-model-offload", family="adapted", denoiser="transformer")
def flux_model_offload() -> CorpusCase:
    return CorpusCase(df.FluxPipeline(**flux_parts()), call(**SMALL, **SHORT), offload=offload_models)


@case("sd15-sequential-offload", family="adapted", denoiser="unet")
def sd_sequential_offload() -> CorpusCase:
    return CorpusCase(df.StableDiffusionPipeline(**sd()), call(**SMALL), offload=offload_layers)


@case("sdxl-group-offload-leaves", family="adapted", denoiser="unet")
def xl_group_offload() -> CorpusCase:
    return CorpusCase(df.StableDiffusionXLPipeline(**sd_xl()), call(**SMALL), offload=offload_leaves)


@case("flux-group-offload-blocks", family="adapted", denoiser="transformer")
def flux_group_offload() -> CorpusCase:
    pipe = df.FluxPipeline(**flux_parts(transformer=flux_transformer(num_layers=2, num_single_layers=2)))
    return CorpusCase(pipe, call(**SMALL, **SHORT), offload=offload_blocks)


@case("sdxl-lora-model-offload", family="adapted", denoiser="unet")
def xl_lora_offload() -> CorpusCase:
    pipe = df.StableDiffusionXLPipeline(**sd_xl())
    pipe.load_lora_weights(lora_weights(pipe.unet, "unet"), adapter_name="style")
    return CorpusCase(pipe, call(**SMALL), offload=offload_models)


# ---- switches of the pipeline and its models -----------------------------------------------------


@case("sdxl-fused-qkv-freeu", family="adapted", denoiser="unet")
def xl_fused() -> CorpusCase:
    pipe = df.StableDiffusionXLPipeline(**sd_xl())
    pipe.fuse_qkv_projections()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return CorpusCase(pipe, call(**SMALL))


@case("sd15-sliced-tiled-chunked", family="adapted", denoiser="unet")
def sd_sliced() -> CorpusCase:
    pipe = df.StableDiffusionPipeline(**sd())
    pipe.enable_attention_slicing(1)
    pipe.vae.enable_slicing()
    pipe.vae.enable_tiling()
    pipe.vae.tile_sample_min_size, pipe.vae.tile_latent_min_size = 16, 8
    return CorpusCase(pipe, call(num_images_per_prompt=2, **SMALL))


@case("sd15-channels-last", family="adapted", denoiser="unet")
def sd_channels_last() -> CorpusCase:
    pipe = df.StableDiffusionPipeline(**sd(scheduler=df.DEISMultistepScheduler(**BETAS)))
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return CorpusCase(pipe, call(num_inference_steps=3, **SMALL))


@case("sdxl-bfloat16", family="adapted", denoiser="unet")
def xl_bfloat16() -> CorpusCase:
    """The VAE is upcast around decoding, as fp16 SDXL does it."""
    pipe = df.StableDiffusionXLPipeline(**sd_xl())
    pipe.to(torch.bfloat16)
    return CorpusCase(pipe, call(**SMALL))


@case("sd3-layerwise-float8", family="adapted", denoiser="transformer")
def sd3_layerwise() -> CorpusCase:
    pipe = df.StableDiffusion3Pipeline(**sd3_parts())
    pipe.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return CorpusCase(pipe, call(**SMALL))


@case("flux-first-block-cache", family="adapted", denoiser="transformer")
def flux_first_block_cache() -> CorpusCase:
    """Skips the later blocks when the first one changed little, which it decides on the CPU."""
    net = flux_transformer(num_layers=2)
    net.enable_cache(df.FirstBlockCacheConfig(threshold=0.2))
    return CorpusCase(
        df.FluxPipeline(**flux_parts(transformer=net)), call(num_inference_steps=3, **SMALL, **SHORT)
    )


@case("wan-pyramid-attention-broadcast", family="adapted", denoiser="transformer")
def wan_pab() -> CorpusCase:
    net = df.WanTransformer3DModel(**(wan_sizes() | {"num_layers": 2}))
    pipe = df.WanPipeline(**wan_parts(transformer=net))
    net.enable_cache(
        df.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            cross_attention_block_skip_range=3,
            spatial_attention_timestep_skip_range=(100, 900),
            cross_attention_timestep_skip_range=(100, 900),
            spatial_attention_block_identifiers=("blocks",),
            cross_attention_block_identifiers=("blocks",),
            current_timestep_callback=lambda: pipe.current_timestep,
        )
    )
    return CorpusCase(pipe, call(num_inference_steps=4, **FRAMES))


class DeviceSigmas(df.EulerDiscreteScheduler):
    """Keeps its sigmas where the timesteps are, and reads them one at a time."""

    sigmas: Any

    def set_timesteps(
        self, num_inference_steps: int, device: torch.types.Device = None, **kwargs: object
    ) -> None:
        super().set_timesteps(num_inference_steps, device, **kwargs)
        self.sigmas = self.sigmas.to(device)

    def step(self, *args: object, **kwargs: object) -> object:
        if self.step_index is not None and self.sigmas[self.step_index] < 0:
            raise ValueError("a negative sigma")
        return super().step(*args, **kwargs)


@case("sdxl-scheduler-with-device-sigmas", family="adapted", denoiser="unet")
def xl_device_sigmas() -> CorpusCase:
    pipe = df.StableDiffusionXLPipeline(**sd_xl(unet=xl_unet(), scheduler=DeviceSigmas(**BETAS)))
    return CorpusCase(pipe, call(num_inference_steps=3, **SMALL))


@case("sd15-no-guidance-embeds", family="adapted", denoiser="unet")
def sd_embeds() -> CorpusCase:
    """Embeddings made beforehand, and no guidance."""
    pipe = df.StableDiffusionPipeline(**sd(unet=unet(), scheduler=df.DPMSolverSinglestepScheduler(**BETAS)))
    kwargs = call(
        prompt=None,
        prompt_embeds=torch.randn(2, 8, WIDTH),
        guidance_scale=1.0,
        num_inference_steps=3,
        **SMALL,
    )
    return CorpusCase(pipe, kwargs)


def half_where_large(pipe: Pipeline, index: int, t: torch.Tensor, given: dict[str, Any]) -> dict[str, object]:
    """A callback that looks at the latents, as users' own do."""
    latents = given["latents"]
    return {"latents": latents * 0.5 if latents.abs().max().item() > -float(t) - 1 else latents}


@case("sdxl-callback-that-reads", family="adapted", denoiser="unet")
def xl_callback() -> CorpusCase:
    return CorpusCase(
        df.StableDiffusionXLPipeline(**sd_xl()), call(callback_on_step_end=half_where_large, **SMALL)
    )


@case("sdxl-layerwise-float8-model-offload", family="adapted", denoiser="unet")
def xl_layerwise_offload() -> CorpusCase:
    pipe = df.StableDiffusionXLPipeline(**sd_xl())
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return CorpusCase(pipe, call(**SMALL), offload=offload_models)
