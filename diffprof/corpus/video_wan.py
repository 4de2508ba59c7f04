"""Video by Wan and what grew from it."""

from __future__ import annotations

import diffusers as df

from . import CorpusCase, case, tokens
from .parts import WIDTH, call, clip_pixels, clip_vision, flow, gemma2, picture
from .video import with_t5

SMALL = {"height": 16, "width": 16}
SHORT = {"max_sequence_length": 16}


def wan_vae() -> df.AutoencoderKLWan:
    """Shrinks space 8 times and time 4 times."""
    return df.AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    )


def wan_sizes() -> dict[str, object]:
    return {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": 16,
        "out_channels": 16,
        "text_dim": WIDTH,
        "freq_dim": 32,
        "ffn_dim": 32,
        "num_layers": 1,
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 32,
    }


def wan_parts(**parts: object) -> dict[str, object]:
    transformer = parts.pop("transformer", None) or df.WanTransformer3DModel(**wan_sizes())
    scheduler = parts.pop("scheduler", None) or df.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return with_t5(transformer=transformer, vae=wan_vae(), scheduler=scheduler, **parts)


FRAMES = {"num_frames": 5, **SMALL, **SHORT}


@case("wan-t2v", family="video", denoiser="transformer")
def wan() -> CorpusCase:
    return CorpusCase(
        df.WanPipeline(**wan_parts()), call(negative_prompt="a dog", num_inference_steps=3, **FRAMES)
    )


@case("wan22-two-transformers", family="video", denoiser="transformer")
def wan22() -> CorpusCase:
    parts = wan_parts(transformer_2=df.WanTransformer3DModel(**wan_sizes()), scheduler=flow())
    pipe = df.WanPipeline(**parts, boundary_ratio=0.6)
    return CorpusCase(pipe, call(guidance_scale=3.0, guidance_scale_2=2.0, **FRAMES))


@case("wan-i2v", family="video", denoiser="transformer")
def wan_i2v() -> CorpusCase:
    net = df.WanTransformer3DModel(**(wan_sizes() | {"in_channels": 36, "image_dim": WIDTH}))
    parts = wan_parts(transformer=net, image_encoder=clip_vision(), image_processor=clip_pixels())
    return CorpusCase(df.WanImageToVideoPipeline(**parts), call(image=picture(16), **FRAMES))


@case("wan-vace", family="video", denoiser="transformer")
def wan_vace() -> CorpusCase:
    net = df.WanVACETransformer3DModel(
        **wan_sizes() | {"num_layers": 2}, vace_layers=[0], vace_in_channels=96
    )
    pipe = df.WanVACEPipeline(**wan_parts(transformer=net, scheduler=flow()))
    return CorpusCase(pipe, call(video=[picture(16)] * 5, mask=[picture(16, mode="L")] * 5, **FRAMES))


@case("wan-video2video", family="video", denoiser="transformer")
def wan_v2v() -> CorpusCase:
    pipe = df.WanVideoToVideoPipeline(**wan_parts())
    kwargs = call(
        video=[picture(16, seed) for seed in range(5)], strength=0.7, num_inference_steps=4, **SMALL, **SHORT
    )
    return CorpusCase(pipe, kwargs)


@case("skyreels-v2", family="video", denoiser="transformer")
def skyreels() -> CorpusCase:
    net = df.SkyReelsV2Transformer3DModel(**wan_sizes())
    scheduler = df.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=8.0
    )
    return CorpusCase(
        df.SkyReelsV2Pipeline(**wan_parts(transformer=net, scheduler=scheduler)), call(**FRAMES)
    )


@case("skyreels-v2-diffusion-forcing", family="video", denoiser="transformer")
def skyreels_forcing() -> CorpusCase:
    net = df.SkyReelsV2Transformer3DModel(**wan_sizes(), num_frame_per_block=1)
    scheduler = df.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=8.0
    )
    pipe = df.SkyReelsV2DiffusionForcingPipeline(**wan_parts(transformer=net, scheduler=scheduler))
    return CorpusCase(pipe, call(overlap_history=None, ar_step=0, **FRAMES))


@case("sana-video", family="video", denoiser="transformer")
def sana_video() -> CorpusCase:
    net = df.SanaVideoTransformer3DModel(
        in_channels=16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=WIDTH,
        patch_size=(1, 2, 2),
        sample_size=8,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
    )
    pipe = df.SanaVideoPipeline(
        tokenizer=tokens.tokenizer(300, bos=True, eos=False),
        text_encoder=gemma2(),
        vae=wan_vae(),
        transformer=net,
        scheduler=df.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
    kwargs = call(
        frames=5, use_resolution_binning=False, complex_human_instruction=None, height=32, width=32, **SHORT
    )
    return CorpusCase(pipe, kwargs)
