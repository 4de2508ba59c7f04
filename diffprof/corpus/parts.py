"""Small components that many pipelines share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as df
import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    LlamaConfig,
    LlamaModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    UMT5Config,
    UMT5EncoderModel,
)

from . import tokens

WIDTH = 16
"""Hidden size of every text encoder, and so the cross-attention width of what reads it."""
PROMPT = "a cat on a tin roof"
STEPS = 2


# ---- text ----------------------------------------------------------------------------------------


def _clip_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=tokens.VOCABULARY_SIZE,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=WIDTH,
        bos_token_id=tokens.BOS,
        eos_token_id=tokens.EOS,
        pad_token_id=tokens.PAD,
    )


def clip_text() -> CLIPTextModel:
    return CLIPTextModel(_clip_config())


def clip_text_projected() -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(_clip_config())


def t5() -> T5EncoderModel:
    return T5EncoderModel(_t5_config(T5Config))


def umt5() -> UMT5EncoderModel:
    return UMT5EncoderModel(_t5_config(UMT5Config))


def _t5_config(kind: type) -> object:
    return kind(
        vocab_size=tokens.VOCABULARY_SIZE,
        d_model=WIDTH,
        d_kv=8,
        d_ff=WIDTH,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        pad_token_id=tokens.PAD,
        eos_token_id=tokens.EOS,
    )


def decoder_sizes() -> dict[str, object]:
    """The arguments that configurations of decoder-only language models have in common."""
    return {
        "vocab_size": tokens.VOCABULARY_SIZE,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "bos_token_id": tokens.BOS,
        "eos_token_id": tokens.EOS,
        "pad_token_id": tokens.PAD,
    }


def gemma2() -> Gemma2Model:
    return Gemma2Model(Gemma2Config(**decoder_sizes()))


def llama() -> LlamaModel:
    return LlamaModel(LlamaConfig(**decoder_sizes()))


def qwen3() -> Qwen3Model:
    return Qwen3Model(Qwen3Config(**decoder_sizes()))


def qwen_vl() -> Qwen2_5_VLForConditionalGeneration:
    text = decoder_sizes() | {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]}
    }
    vision = {
        "depth": 1,
        "hidden_size": WIDTH,
        "intermediate_size": WIDTH,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [0],
    }
    marks = tokens.VOCABULARY
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=text,
            vision_config=vision,
            image_token_id=marks["<image>"],
            video_token_id=marks["<video>"],
            vision_start_token_id=marks["<vision>"],
            vision_end_token_id=marks["</vision>"],
        )
    )


# ---- images --------------------------------------------------------------------------------------


def picture(size: int = 32, seed: int = 0, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def half_mask(size: int = 32) -> Image.Image:
    """White (to be painted) on the left, black on the right."""
    mask: np.ndarray = np.zeros((size, size), dtype=np.uint8)
    mask[:, : size // 2] = 255
    return Image.fromarray(mask)


def clip_vision(image_size: int = 16, patch_size: int = 8) -> CLIPVisionModelWithProjection:
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=WIDTH,
            image_size=image_size,
            patch_size=patch_size,
        )
    )


def clip_pixels() -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def vae(latent_channels: int = 4, levels: int = 2, **config: Any) -> AutoencoderKL:
    """A KL autoencoder that shrinks an image ``2 ** (levels - 1)`` times."""
    settings: dict[str, object] = {
        "block_out_channels": (8,) * levels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "latent_channels": latent_channels,
        "norm_num_groups": 4,
        "sample_size": 32,
    }
    return AutoencoderKL(**(settings | config))


def flow_vae(latent_channels: int = 4, levels: int = 2) -> AutoencoderKL:
    """As SD3 and Flux have it: a shift, and no convolutions around the latents."""
    return vae(
        latent_channels,
        levels,
        shift_factor=0.0609,
        scaling_factor=1.5035,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


# ---- denoisers and schedulers --------------------------------------------------------------------


def unet_sizes() -> dict[str, object]:
    """A UNet of two levels, the lower one with cross-attention."""
    return {
        "sample_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": WIDTH,
        "attention_head_dim": 2,
    }


def unet(**config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(**(unet_sizes() | config))


def xl_sizes(text_width: int = 2 * WIDTH, pooled: int = WIDTH, ids: int = 6) -> dict[str, object]:
    """What SDXL's UNet adds: size and crop coordinates (``ids`` of them) joined to the pooled prompt."""
    return unet_sizes() | {
        "cross_attention_dim": text_width,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 8 * ids + pooled,
        "transformer_layers_per_block": (1, 2),
        "attention_head_dim": (2, 4),
        "use_linear_projection": True,
    }


def xl_unet(**config: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(**(xl_sizes() | config))


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def ddim() -> DDIMScheduler:
    return DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False, steps_offset=1)


def euler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(**BETAS, steps_offset=1, timestep_spacing="leading")


def flow() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler()


# ---- whole sets of components --------------------------------------------------------------------


def sd(**parts: Any) -> dict[str, object]:
    """Components of Stable Diffusion 1.x; ``parts`` add to them or replace them."""
    made = {
        "unet": unet,
        "vae": vae,
        "text_encoder": clip_text,
        "tokenizer": tokens.clip_tokenizer,
        "scheduler": ddim,
    }
    rest = {"safety_checker": None, "feature_extractor": None}
    return rest | {name: build() for name, build in made.items() if name not in parts} | parts


def sd_xl(**parts: Any) -> dict[str, object]:
    """Components of Stable Diffusion XL."""
    made = {
        "unet": xl_unet,
        "vae": vae,
        "text_encoder": clip_text,
        "text_encoder_2": clip_text_projected,
        "tokenizer": tokens.clip_tokenizer,
        "tokenizer_2": tokens.clip_tokenizer,
        "scheduler": euler,
    }
    return {name: build() for name, build in made.items() if name not in parts} | parts


def kandinsky5_parts(vae: Callable[[], torch.nn.Module]) -> dict[str, object]:
    """Of its pipelines for images and for videos, which differ in the decoder. Made in this order, from one
    seed."""
    net = df.Kandinsky5Transformer3DModel(
        in_visual_dim=4,
        out_visual_dim=4,
        in_text_dim=WIDTH,
        in_text_dim2=WIDTH,
        time_dim=16,
        patch_size=(1, 2, 2),
        model_dim=16,
        ff_dim=16,
        num_text_blocks=1,
        num_visual_blocks=1,
        axes_dims=(2, 2, 4),
        attention_type="regular",
    )
    return {
        "transformer": net,
        "vae": vae(),
        "text_encoder": qwen_vl(),
        "tokenizer": tokens.tokenizer(2048),
        "text_encoder_2": clip_text(),
        "tokenizer_2": tokens.clip_tokenizer(),
        "scheduler": flow(),
    }


def call(**kwargs: Any) -> dict[str, Any]:
    """Call arguments: a prompt, a few steps, and the result as a tensor unless ``kwargs`` say otherwise."""
    return {"prompt": PROMPT, "num_inference_steps": STEPS, "output_type": "pt"} | kwargs
