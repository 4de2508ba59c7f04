"""Images from text or a class, by transformers beside the text (PixArt, Sana, Lumina, ...)."""

from __future__ import annotations

import diffusers as df
import transformers as tf

from . import CorpusCase, case, tokens
from .parts import (
    BETAS,
    STEPS,
    WIDTH,
    call,
    decoder_sizes,
    flow,
    flow_vae,
    gemma2,
    kandinsky5_parts,
    qwen3,
    t5,
    vae,
)

SMALL = {"height": 32, "width": 32}
SHORT = {"max_sequence_length": 16}


def pixart_transformer(**config: object) -> df.PixArtTransformer2DModel:
    settings = {
        "sample_size": 16,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 1,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
    }
    return df.PixArtTransformer2DModel(**(settings | config))


@case("pixart-alpha", family="image", denoiser="transformer")
def pixart_alpha() -> CorpusCase:
    pipe = df.PixArtAlphaPipeline(
        tokenizer=tokens.tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=pixart_transformer(sample_size=128, num_attention_heads=3, cross_attention_dim=24),
        scheduler=df.DPMSolverMultistepScheduler(beta_schedule="linear"),
    )
    return CorpusCase(pipe, call(use_resolution_binning=False, num_inference_steps=3, **SMALL, **SHORT))


@case("pixart-sigma", family="image", denoiser="transformer")
def pixart_sigma() -> CorpusCase:
    pipe = df.PixArtSigmaPipeline(
        tokenizer=tokens.tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=pixart_transformer(),
        scheduler=df.DDIMScheduler(beta_schedule="linear"),
    )
    return CorpusCase(pipe, call(use_resolution_binning=False, **SMALL, **SHORT))


@case("dit-class-conditional", family="image", denoiser="transformer")
def dit() -> CorpusCase:
    net = df.DiTTransformer2DModel(
        sample_size=16,
        patch_size=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        num_embeds_ada_norm=1000,
    )
    pipe = df.DiTPipeline(net, vae(), df.DDIMScheduler())
    return CorpusCase(pipe, {"class_labels": [1, 2], "num_inference_steps": STEPS, "output_type": "np"})


def bert() -> tf.BertModel:
    return tf.BertModel(
        tf.BertConfig(
            vocab_size=tokens.VOCABULARY_SIZE,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=WIDTH,
        )
    )


def hunyuan_dit_sizes() -> dict[str, object]:
    return {
        "sample_size": 16,
        "patch_size": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "in_channels": 4,
        "cross_attention_dim": WIDTH,
        "cross_attention_dim_t5": WIDTH,
        "pooled_projection_dim": WIDTH,
        "hidden_size": 16,
        "text_len": 77,
    }


def hunyuan_dit_parts(**parts: object) -> dict[str, object]:
    made = {
        "vae": lambda: vae(levels=4),  # the positions count on a scale factor of 8
        "text_encoder": bert,
        "tokenizer": tokens.clip_tokenizer,
        "transformer": lambda: df.HunyuanDiT2DModel(num_layers=2, **hunyuan_dit_sizes()),
        "text_encoder_2": t5,
        "tokenizer_2": lambda: tokens.tokenizer(256),
        "scheduler": lambda: df.DDPMScheduler(**BETAS, steps_offset=1),
    }
    rest = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return rest | {name: build() for name, build in made.items() if name not in parts} | parts


@case("hunyuan-dit", family="image", denoiser="transformer")
def hunyuan_dit() -> CorpusCase:
    return CorpusCase(
        df.HunyuanDiTPipeline(**hunyuan_dit_parts()), call(use_resolution_binning=False, height=64, width=64)
    )


def sana_transformer(**config: object) -> df.SanaTransformer2DModel:
    settings = {
        "patch_size": 1,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 1,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_cross_attention_heads": 2,
        "cross_attention_head_dim": 8,
        "cross_attention_dim": 16,
        "caption_channels": WIDTH,
        "sample_size": 16,
    }
    return df.SanaTransformer2DModel(**(settings | config))


def deep_compression_vae() -> df.AutoencoderDC:
    return df.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=4,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )


def sana_parts(**parts: object) -> dict[str, object]:
    made = {
        "transformer": sana_transformer,
        "vae": deep_compression_vae,
        "text_encoder": gemma2,
        "tokenizer": lambda: tokens.tokenizer(300, bos=True, eos=False),
        "scheduler": lambda: df.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }
    return {name: build() for name, build in made.items() if name not in parts} | parts


SANA = {"use_resolution_binning": False, "complex_human_instruction": None}


@case("sana", family="image", denoiser="transformer")
def sana() -> CorpusCase:
    return CorpusCase(df.SanaPipeline(**sana_parts()), call(num_inference_steps=3, **SANA, **SMALL, **SHORT))


@case("sana-sprint", family="image", denoiser="transformer")
def sana_sprint() -> CorpusCase:
    net = sana_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    pipe = df.SanaSprintPipeline(**sana_parts(transformer=net, scheduler=df.SCMScheduler()))
    return CorpusCase(pipe, call(**SANA, **SMALL, **SHORT))


@case("lumina-next", family="image", denoiser="transformer")
def lumina() -> CorpusCase:
    net = df.LuminaNextDiT2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        norm_eps=1e-5,
        learn_sigma=True,
        cross_attention_dim=WIDTH,
    )
    pipe = df.LuminaPipeline(
        transformer=net,
        scheduler=flow(),
        vae=vae(),
        text_encoder=tf.GemmaForCausalLM(tf.GemmaConfig(**decoder_sizes())),
        tokenizer=tokens.tokenizer(bos=True, eos=False),
    )
    return CorpusCase(pipe, call(**SMALL, **SHORT))


@case("lumina2", family="image", denoiser="transformer")
def lumina2() -> CorpusCase:
    net = df.Lumina2Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=16,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(300, 64, 64),
        cap_feat_dim=WIDTH,
    )
    pipe = df.Lumina2Pipeline(
        transformer=net,
        scheduler=flow(),
        vae=flow_vae(),
        text_encoder=gemma2(),
        tokenizer=tokens.tokenizer(bos=True, eos=False),
    )
    return CorpusCase(pipe, call(**SMALL, **SHORT))


def z_image_parts() -> dict[str, object]:
    net = df.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return {
        "scheduler": flow(),
        "vae": flow_vae(),
        "text_encoder": qwen3(),
        "tokenizer": tokens.tokenizer(512),
        "transformer": net,
    }


@case("z-image", family="image", denoiser="transformer")
def z_image() -> CorpusCase:
    kwargs = call(negative_prompt="a dog", guidance_scale=3.0, **SMALL, **SHORT)
    return CorpusCase(df.ZImagePipeline(**z_image_parts()), kwargs)


@case("prx", family="image", denoiser="transformer")
def prx() -> CorpusCase:
    net = df.PRXTransformer2DModel(
        patch_size=2,
        in_channels=4,
        context_in_dim=WIDTH,
        hidden_size=16,
        mlp_ratio=2.0,
        num_heads=2,
        depth=1,
        axes_dim=[4, 4],
    )
    pipe = df.PRXPipeline(
        transformer=net,
        scheduler=flow(),
        text_encoder=gemma2(),
        tokenizer=tokens.tokenizer(bos=True, eos=False),
        vae=flow_vae(),
    )
    return CorpusCase(pipe, call(use_resolution_binning=False, **SMALL))


@case("kandinsky5-image", family="image", denoiser="transformer")
def kandinsky5_image() -> CorpusCase:
    pipe = df.Kandinsky5T2IPipeline(**kandinsky5_parts(flow_vae))
    pipe.resolutions = [(32, 32)]  # any other size is rounded to one of these
    return CorpusCase(pipe, call(**SMALL, **SHORT))
