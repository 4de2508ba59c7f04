"""Images from text, by transformers over text and image tokens together (Flux, SD3, Qwen-Image, ...)."""

from __future__ import annotations

from collections.abc import Callable

import diffusers as df
import transformers as tf

from . import CorpusCase, case, tokens
from .parts import (
    WIDTH,
    call,
    clip_text,
    clip_text_projected,
    decoder_sizes,
    flow,
    flow_vae,
    qwen3,
    qwen_vl,
    t5,
    umt5,
    vae,
)

SMALL = {"height": 32, "width": 32}
SHORT = {"max_sequence_length": 16}


# ---- Flux and its kin ----------------------------------------------------------------------------


def flux_sizes(latent_channels: int = 4) -> dict[str, object]:
    return {
        "patch_size": 1,
        "in_channels": latent_channels,
        "num_layers": 1,
        "num_single_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "axes_dims_rope": (2, 2, 4),
    }


def flux_transformer(**config: object) -> df.FluxTransformer2DModel:
    return df.FluxTransformer2DModel(**(flux_sizes() | {"pooled_projection_dim": WIDTH} | config))


def flux_parts(**parts: object) -> dict[str, object]:
    """Components of Flux: one latent channel, packed two by two into the transformer's four."""
    made = {
        "transformer": flux_transformer,
        "vae": lambda: flow_vae(1),
        "text_encoder": clip_text,
        "text_encoder_2": t5,
        "tokenizer": tokens.clip_tokenizer,
        "tokenizer_2": tokens.tokenizer,
        "scheduler": flow,
    }
    return {name: build() for name, build in made.items() if name not in parts} | parts


@case("flux", family="image", denoiser="transformer")
def flux() -> CorpusCase:
    pipe = df.FluxPipeline(**flux_parts(transformer=flux_transformer(guidance_embeds=True)))
    return CorpusCase(pipe, call(guidance_scale=3.5, output_type="pil", **SMALL, **SHORT))


@case("flux-true-cfg-dynamic-shift", family="image", denoiser="transformer")
def flux_true_cfg() -> CorpusCase:
    scheduler = df.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    kwargs = call(negative_prompt="a dog", true_cfg_scale=2.0, num_inference_steps=3, **SMALL, **SHORT)
    return CorpusCase(df.FluxPipeline(**flux_parts(scheduler=scheduler)), kwargs)


def chroma_parts() -> dict[str, object]:
    net = df.ChromaTransformer2DModel(
        **flux_sizes(), approximator_num_channels=16, approximator_hidden_dim=16, approximator_layers=1
    )
    return {
        "transformer": net,
        "vae": flow_vae(1),
        "text_encoder": t5(),
        "tokenizer": tokens.tokenizer(),
        "scheduler": flow(),
    }


@case("chroma", family="image", denoiser="transformer")
def chroma() -> CorpusCase:
    return CorpusCase(df.ChromaPipeline(**chroma_parts()), call(negative_prompt="a dog", **SMALL, **SHORT))


@case("bria", family="image", denoiser="transformer")
def bria() -> CorpusCase:
    sizes = flux_sizes(16) | {"axes_dims_rope": (0, 4, 4), "pooled_projection_dim": None}
    pipe = df.BriaPipeline(
        transformer=df.BriaTransformer2DModel(**sizes),
        vae=vae(levels=1),
        text_encoder=t5(),
        tokenizer=tokens.tokenizer(),
        scheduler=flow(),
    )
    return CorpusCase(pipe, call(negative_prompt="a dog", **SMALL, **SHORT))


@case("ovis-image", family="image", denoiser="transformer")
def ovis() -> CorpusCase:
    pipe = df.OvisImagePipeline(
        transformer=df.OvisImageTransformer2DModel(**flux_sizes(), out_channels=4),
        vae=flow_vae(1),
        text_encoder=qwen3(),
        tokenizer=tokens.tokenizer(512),
        scheduler=flow(),
    )
    return CorpusCase(pipe, call(negative_prompt="a dog", guidance_scale=2.0, **SMALL))


@case("flux2-klein", family="image", denoiser="transformer")
def flux2_klein() -> CorpusCase:
    sizes = flux_sizes() | {
        "axes_dims_rope": (2, 2, 2, 2),
        "timestep_guidance_channels": 32,
        "guidance_embeds": False,
    }
    latents = df.AutoencoderKLFlux2(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=1,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    pipe = df.Flux2KleinPipeline(
        scheduler=flow(),
        vae=latents,
        text_encoder=tf.Qwen3ForCausalLM(tf.Qwen3Config(**decoder_sizes())),
        tokenizer=tokens.tokenizer(512),
        transformer=df.Flux2Transformer2DModel(**sizes),
    )
    kwargs = call(max_sequence_length=64, text_encoder_out_layers=(1,), guidance_scale=4.0, height=8, width=8)
    return CorpusCase(pipe, kwargs)


# ---- joint-attention transformers ----------------------------------------------------------------


def sd3_transformer(**config: object) -> df.SD3Transformer2DModel:
    settings = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_projection_dim": 16,
        "joint_attention_dim": 2 * WIDTH,
        "pooled_projection_dim": 2 * WIDTH,
        "pos_embed_max_size": 16,
    }
    return df.SD3Transformer2DModel(**(settings | config))


def sd3_parts(**parts: object) -> dict[str, object]:
    """Components of SD3 with its third text encoder left out, as many run it to save memory."""
    made: dict[str, Callable[[], object]] = {
        "transformer": sd3_transformer,
        "vae": flow_vae,
        "text_encoder": clip_text_projected,
        "text_encoder_2": clip_text_projected,
        "tokenizer": tokens.clip_tokenizer,
        "tokenizer_2": tokens.clip_tokenizer,
        "scheduler": flow,
    }
    rest = {"text_encoder_3": None, "tokenizer_3": None}
    return rest | {name: build() for name, build in made.items() if name not in parts} | parts


@case("sd3", family="image", denoiser="transformer")
def sd3() -> CorpusCase:
    wide = tf.T5EncoderModel(
        tf.T5Config(
            vocab_size=tokens.VOCABULARY_SIZE, d_model=2 * WIDTH, d_kv=8, d_ff=16, num_layers=1, num_heads=2
        )
    )
    pipe = df.StableDiffusion3Pipeline(**sd3_parts(text_encoder_3=wide, tokenizer_3=tokens.tokenizer()))
    return CorpusCase(pipe, call(num_inference_steps=3, negative_prompt="a dog", **SMALL, **SHORT))


@case("sd35-skip-layer-guidance", family="image", denoiser="transformer")
def sd35() -> CorpusCase:
    net = sd3_transformer(qk_norm="rms_norm", dual_attention_layers=(0,))
    kwargs = call(skip_guidance_layers=[1], skip_layer_guidance_stop=0.9, num_inference_steps=3, **SMALL)
    return CorpusCase(df.StableDiffusion3Pipeline(**sd3_parts(transformer=net)), kwargs)


@case("sd3-pag", family="image", denoiser="transformer")
def sd3_pag() -> CorpusCase:
    pipe = df.StableDiffusion3PAGPipeline(**sd3_parts(), pag_applied_layers=["blocks.1"])
    return CorpusCase(pipe, call(pag_scale=0.7, **SMALL))


@case("auraflow", family="image", denoiser="transformer")
def auraflow() -> CorpusCase:
    net = df.AuraFlowTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_projection_dim=16,
        joint_attention_dim=WIDTH,
        out_channels=4,
        pos_embed_max_size=64,
    )
    pipe = df.AuraFlowPipeline(
        tokenizer=tokens.tokenizer(), text_encoder=umt5(), vae=vae(), transformer=net, scheduler=flow()
    )
    return CorpusCase(pipe, call(**SMALL, **SHORT))


def qwen_image_vae() -> df.AutoencoderKLQwenImage:
    return df.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def qwen_image_parts(**parts: object) -> dict[str, object]:
    made = {
        "transformer": lambda: df.QwenImageTransformer2DModel(
            patch_size=2,
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 2, 2),
        ),
        "vae": qwen_image_vae,
        "text_encoder": qwen_vl,
        "tokenizer": lambda: tokens.tokenizer(2048),
        "scheduler": flow,
    }
    return {name: build() for name, build in made.items() if name not in parts} | parts


@case("qwen-image", family="image", denoiser="transformer")
def qwen_image() -> CorpusCase:
    kwargs = call(negative_prompt="a dog", true_cfg_scale=2.0, **SMALL, **SHORT)
    return CorpusCase(df.QwenImagePipeline(**qwen_image_parts()), kwargs)


@case("cogview3-plus", family="image", denoiser="transformer")
def cogview3() -> CorpusCase:
    net = df.CogView3PlusTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
        pos_embed_max_size=16,
        sample_size=16,
    )
    pipe = df.CogView3PlusPipeline(
        tokenizer=tokens.tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=net,
        scheduler=df.CogVideoXDDIMScheduler(),
    )
    return CorpusCase(pipe, call(**SMALL, **SHORT))


@case("cogview4", family="image", denoiser="transformer")
def cogview4() -> CorpusCase:
    net = df.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=WIDTH,
        time_embed_dim=8,
        condition_dim=4,
    )
    scheduler = df.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        time_shift_type="linear",
        base_shift=0.25,
        max_shift=0.75,
        base_image_seq_len=256,
    )
    pipe = df.CogView4Pipeline(
        tokenizer=tokens.tokenizer(),
        text_encoder=tf.GlmForCausalLM(tf.GlmConfig(**decoder_sizes())),
        vae=vae(),
        transformer=net,
        scheduler=scheduler,
    )
    return CorpusCase(pipe, call(**SMALL, **SHORT))


@case("hidream-moe", family="image", denoiser="transformer")
def hidream() -> CorpusCase:
    net = df.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=[WIDTH, WIDTH],
        text_emb_dim=2 * WIDTH,
        num_routed_experts=4,
        num_activated_experts=2,
        axes_dims_rope=(4, 2, 2),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
    )
    pipe = df.HiDreamImagePipeline(
        scheduler=flow(),
        vae=flow_vae(),
        text_encoder=clip_text_projected(),
        tokenizer=tokens.clip_tokenizer(),
        text_encoder_2=clip_text_projected(),
        tokenizer_2=tokens.clip_tokenizer(),
        text_encoder_3=t5(),
        tokenizer_3=tokens.tokenizer(),
        text_encoder_4=tf.LlamaForCausalLM(tf.LlamaConfig(**decoder_sizes())),
        tokenizer_4=tokens.tokenizer(bos=True, eos=False),
        transformer=net,
    )
    pipe.default_sample_size = 16  # images are scaled up to its area
    return CorpusCase(pipe, call(**SMALL, **SHORT))


@case("hunyuan-image", family="image", denoiser="transformer")
def hunyuan_image() -> CorpusCase:
    net = df.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        text_embed_dim=WIDTH,
        text_embed_2_dim=WIDTH,
        rope_axes_dim=(4, 4),
    )
    latents = df.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        spatial_compression_ratio=2,
        sample_size=32,
        scaling_factor=0.5,
    )
    pipe = df.HunyuanImagePipeline(
        scheduler=flow(),
        vae=latents,
        text_encoder=qwen_vl(),
        tokenizer=tokens.tokenizer(2048),
        text_encoder_2=t5(),
        tokenizer_2=tokens.tokenizer(),
        transformer=net,
        guider=df.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1),
        ocr_guider=df.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=1),
    )
    return CorpusCase(pipe, call(prompt='a sign that says "cat"', num_inference_steps=3, height=16, width=16))
