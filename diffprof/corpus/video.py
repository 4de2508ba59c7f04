"""Video from text or an image."""

from __future__ import annotations

import diffusers as df
import torch
from diffusers.configuration_utils import register_to_config

from . import CorpusCase, case, tokens
from .parts import (
    BETAS,
    STEPS,
    WIDTH,
    call,
    clip_pixels,
    clip_text,
    clip_vision,
    flow,
    kandinsky5_parts,
    llama,
    picture,
    sd,
    t5,
    unet,
    unet_sizes,
    vae,
)

SMALL = {"height": 16, "width": 16}
SHORT = {"max_sequence_length": 16}


def with_t5(**parts: object) -> dict[str, object]:
    made = {"text_encoder": t5, "tokenizer": tokens.tokenizer, "scheduler": flow}
    return {name: build() for name, build in made.items() if name not in parts} | parts


# ---- other transformers --------------------------------------------------------------------------


def ltx_parts() -> dict[str, object]:
    video_vae = df.AutoencoderKLLTXVideo(
        latent_channels=8,
        block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, True),
        decoder_spatio_temporal_scaling=(True, True),
        decoder_inject_noise=(False, False, False),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        patch_size=1,
        patch_size_t=1,
        timestep_conditioning=False,
        down_block_types=("LTXVideoDownBlock3D",) * 2,
    )
    video_vae.use_framewise_encoding = video_vae.use_framewise_decoding = False
    net = df.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=WIDTH,
    )
    return with_t5(transformer=net, vae=video_vae)


@case("ltx-video", family="video", denoiser="transformer")
def ltx() -> CorpusCase:
    return CorpusCase(df.LTXPipeline(**ltx_parts()), call(num_frames=9, height=32, width=32, **SHORT))


@case("ltx-image-to-video", family="video", denoiser="transformer")
def ltx_i2v() -> CorpusCase:
    pipe = df.LTXImageToVideoPipeline(**ltx_parts())
    return CorpusCase(pipe, call(image=picture(), num_frames=9, height=32, width=32, **SHORT))


@case("ltx-condition", family="video", denoiser="transformer")
def ltx_condition() -> CorpusCase:
    pipe = df.LTXConditionPipeline(**ltx_parts())
    return CorpusCase(pipe, call(image=picture(), num_frames=9, height=32, width=32, **SHORT))


def cogvideo_parts(**config: object) -> dict[str, object]:
    net = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "time_embed_dim": 8,
        "text_embed_dim": WIDTH,
        "num_layers": 1,
        "sample_width": 2,
        "sample_height": 2,
        "sample_frames": 9,
        "patch_size": 2,
        "max_text_seq_length": 16,
    }
    video_vae = df.AutoencoderKLCogVideoX(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    return with_t5(
        transformer=df.CogVideoXTransformer3DModel(**(net | config)),
        vae=video_vae,
        scheduler=df.CogVideoXDPMScheduler(),
    )


@case("cogvideox", family="video", denoiser="transformer")
def cogvideox() -> CorpusCase:
    return CorpusCase(
        df.CogVideoXPipeline(**cogvideo_parts()), call(num_frames=9, num_inference_steps=3, **SMALL, **SHORT)
    )


@case("cogvideox-i2v-rotary", family="video", denoiser="transformer")
def cogvideox_i2v() -> CorpusCase:
    parts = cogvideo_parts(
        in_channels=8, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True
    )
    return CorpusCase(
        df.CogVideoXImageToVideoPipeline(**parts), call(image=picture(16), num_frames=9, **SMALL, **SHORT)
    )


@case("hunyuan-video", family="video", denoiser="transformer")
def hunyuan_video() -> CorpusCase:
    net = df.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=10,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(2, 4, 4),
    )
    pipe = df.HunyuanVideoPipeline(
        text_encoder=llama(),
        tokenizer=tokens.tokenizer(bos=True, eos=False),
        transformer=net,
        vae=hunyuan_video_vae(),
        scheduler=df.FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=clip_text(),
        tokenizer_2=tokens.clip_tokenizer(),
    )
    kwargs = call(prompt_template={"template": "{}", "crop_start": 0}, num_frames=5, **SMALL, **SHORT)
    return CorpusCase(pipe, kwargs)


def hunyuan_video_vae(latent_channels: int = 4) -> df.AutoencoderKLHunyuanVideo:
    return df.AutoencoderKLHunyuanVideo(
        latent_channels=latent_channels,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
    )


@case("mochi", family="video", denoiser="transformer")
def mochi() -> CorpusCase:
    net = df.MochiTransformer3DModel(
        patch_size=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        pooled_projection_dim=8,
        in_channels=12,
        text_embed_dim=WIDTH,
        time_embed_dim=4,
        max_sequence_length=16,
    )
    video_vae = df.AutoencoderKLMochi(
        latent_channels=12,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=(1, 1, 1, 1, 1),
        latents_mean=[0.0] * 12,
        latents_std=[1.0] * 12,
    )
    return CorpusCase(
        df.MochiPipeline(**with_t5(transformer=net, vae=video_vae)), call(num_frames=7, **SMALL, **SHORT)
    )


@case("allegro", family="video", denoiser="transformer")
def allegro() -> CorpusCase:
    net = df.AllegroTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        cross_attention_dim=24,
        sample_width=8,
        sample_height=8,
        sample_frames=8,
        caption_channels=WIDTH,
    )
    video_vae = df.AutoencoderKLAllegro(
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2
    )
    video_vae.enable_tiling()  # decoding in one piece is not implemented, and of less than a tile gives zeros
    video_vae.kernel, video_vae.stride = (8, 16, 16), (4, 8, 8)
    video_vae.tile_overlap_t, video_vae.tile_overlap_h, video_vae.tile_overlap_w = 4, 8, 8
    pipe = df.AllegroPipeline(
        **with_t5(transformer=net, vae=video_vae, scheduler=df.EulerAncestralDiscreteScheduler())
    )
    return CorpusCase(pipe, call(num_frames=8, clean_caption=False, **SMALL, **SHORT))


@case("latte", family="video", denoiser="transformer")
def latte() -> CorpusCase:
    net = df.LatteTransformer3DModel(
        sample_size=8,
        patch_size=2,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=WIDTH,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
        video_length=2,
    )
    pipe = df.LattePipeline(
        **with_t5(transformer=net, vae=vae(), scheduler=df.DDIMScheduler(beta_schedule="linear"))
    )
    return CorpusCase(pipe, call(video_length=2, clean_caption=False, decode_chunk_size=1, **SMALL))


@case("cosmos", family="video", denoiser="transformer")
def cosmos() -> CorpusCase:
    net = df.CosmosTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=1,
        mlp_ratio=2,
        text_embed_dim=WIDTH,
        adaln_lora_dim=4,
        max_size=(4, 32, 32),
        patch_size=(1, 2, 2),
        rope_scale=(2.0, 1.0, 1.0),
        extra_pos_embed_type="learnable",
        concat_padding_mask=False,  # with it, torchvision is needed
    )
    video_vae = df.AutoencoderKLCosmos(
        latent_channels=4,
        encoder_block_out_channels=(8, 8, 8, 8),
        decode_block_out_channels=(8, 8, 8, 8),
        attention_resolutions=(8,),
        resolution=64,
        num_layers=1,
        patch_size=4,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
    )
    parts = with_t5(
        transformer=net, vae=video_vae, scheduler=df.EDMEulerScheduler(sigma_max=80, sigma_data=0.5)
    )
    pipe = df.CosmosTextToWorldPipeline(**parts, safety_checker=NoGuard())
    return CorpusCase(pipe, call(num_frames=9, height=32, width=32, **SHORT))


class NoGuard(df.ModelMixin, df.ConfigMixin):
    """Passes every prompt and every video: the real guard is several models from the hub."""

    config_name = "config.json"

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.threshold = torch.nn.Parameter(torch.ones(1))

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: object) -> object:
        return video


@case("easyanimate", family="video", denoiser="transformer")
def easyanimate() -> CorpusCase:
    net = df.EasyAnimateTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=16,
        sample_height=16,
        patch_size=2,
    )
    video_vae = df.AutoencoderKLMagvit(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("SpatialDownBlock3D", *("SpatialTemporalDownBlock3D",) * 3),
        up_block_types=("SpatialUpBlock3D", *("SpatialTemporalUpBlock3D",) * 3),
        layers_per_block=1,
        norm_num_groups=2,
        spatial_group_norm=False,
    )
    # The prompt is encoded by a Qwen2-VL processor with vocabulary files, so it comes encoded.
    embeds = {
        f"{sign}{name}": value
        for sign in ("", "negative_")
        for name, value in (
            ("prompt_embeds", torch.randn(1, 8, WIDTH)),
            ("prompt_attention_mask", torch.ones(1, 8)),
        )
    }
    pipe = df.EasyAnimatePipeline(
        vae=video_vae, text_encoder=None, tokenizer=None, transformer=net, scheduler=flow()
    )
    return CorpusCase(pipe, call(prompt=None, num_frames=5, **embeds, **SMALL))


@case("kandinsky5-video", family="video", denoiser="transformer")
def kandinsky5() -> CorpusCase:
    pipe = df.Kandinsky5T2VPipeline(**kandinsky5_parts(hunyuan_video_vae))
    return CorpusCase(pipe, call(num_frames=5, **SMALL, **SHORT))


# ---- UNets ---------------------------------------------------------------------------------------

ANIMATED = {
    "block_out_channels": (8, 8),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}


def motion() -> df.MotionAdapter:
    return df.MotionAdapter(
        block_out_channels=(8, 8),
        motion_layers_per_block=1,
        motion_norm_num_groups=2,
        motion_num_attention_heads=2,
    )


@case("animatediff", family="video", denoiser="unet")
def animatediff() -> CorpusCase:
    parts = sd(unet=unet(**ANIMATED), scheduler=df.DDIMScheduler(**BETAS, clip_sample=False))
    del parts["safety_checker"]
    return CorpusCase(df.AnimateDiffPipeline(**parts, motion_adapter=motion()), call(num_frames=3, **SMALL))


@case("animatediff-free-noise", family="video", denoiser="unet")
def animatediff_free_noise() -> CorpusCase:
    parts = sd(unet=unet(**ANIMATED), scheduler=df.DDIMScheduler(**BETAS, clip_sample=False))
    del parts["safety_checker"]
    pipe = df.AnimateDiffPipeline(**parts, motion_adapter=motion())
    pipe.enable_free_noise(context_length=4, context_stride=2)
    return CorpusCase(pipe, call(num_frames=6, **SMALL))


@case("stable-video-diffusion", family="video", denoiser="unet")
def svd() -> CorpusCase:
    net = df.UNetSpatioTemporalConditionModel(
        sample_size=16,
        in_channels=8,
        out_channels=4,
        block_out_channels=(32, 32),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        layers_per_block=1,
        num_attention_heads=2,
        cross_attention_dim=WIDTH,
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24,
    )
    video_vae = df.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )
    scheduler = df.EulerDiscreteScheduler(
        **BETAS,
        prediction_type="v_prediction",
        sigma_max=700.0,
        sigma_min=0.002,
        timestep_type="continuous",
        use_karras_sigmas=True,
    )
    pipe = df.StableVideoDiffusionPipeline(
        vae=video_vae,
        image_encoder=clip_vision(224, 56),  # the image is always resized to 224
        unet=net,
        scheduler=scheduler,
        feature_extractor=clip_pixels(),
    )
    kwargs = {
        "image": picture(16),
        "num_frames": 2,
        "num_inference_steps": STEPS,
        "output_type": "pt",
        **SMALL,
    }
    return CorpusCase(pipe, kwargs)


@case("text-to-video-unet3d", family="video", denoiser="unet")
def text_to_video() -> CorpusCase:
    sizes = unet_sizes() | {
        "down_block_types": ("DownBlock3D", "CrossAttnDownBlock3D"),
        "up_block_types": ("CrossAttnUpBlock3D", "UpBlock3D"),
        "block_out_channels": (32, 32),
        "attention_head_dim": 8,
    }
    parts = sd(unet=df.UNet3DConditionModel(**sizes))
    del parts["safety_checker"], parts["feature_extractor"]
    return CorpusCase(df.TextToVideoSDPipeline(**parts), call(num_frames=2, **SMALL))
