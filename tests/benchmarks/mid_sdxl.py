"""SDXL's real widths (320, 640, 1280) and cross-attention at 512 px, with fewer layers: runs on a CPU.

diffprof quantize-table tests/benchmarks/mid_sdxl.py:make --device cpu
"""

from __future__ import annotations

from typing import Any

STEPS = 1


def make() -> tuple[Any, dict[str, Any]]:
    """The pipeline with random weights (575 M parameters in the UNet), and the arguments of its call."""
    import torch
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(320, 640, 1280),
        layers_per_block=1,
        sample_size=64,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(5, 10, 20),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        transformer_layers_per_block=(1, 1, 2),
        projection_class_embeddings_input_dim=2816,
        cross_attention_dim=2048,
    )
    vae = AutoencoderKL(
        block_out_channels=[32, 64, 64, 64],
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
        sample_size=512,
    )
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    small |= {"num_hidden_layers": 2, "vocab_size": 1000}
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(CLIPTextConfig(**small)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**small, projection_dim=1280)),
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    text = {
        name: torch.randn(1, 77, 2048, generator=generator)
        for name in ("prompt_embeds", "negative_prompt_embeds")
    }
    pooled = {
        name: torch.randn(1, 1280, generator=generator)
        for name in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    }
    call = {"num_inference_steps": STEPS, "height": 512, "width": 512, "output_type": "np"}
    return pipe, {**text, **pooled, **call, "generator": torch.Generator().manual_seed(0)}
