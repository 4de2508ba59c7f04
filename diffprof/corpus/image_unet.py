"""Images from text, a class or nothing, by a UNet."""

from __future__ import annotations

import diffusers as df
import torch

from . import CorpusCase, case, tokens
from .parts import (
    BETAS,
    PROMPT,
    WIDTH,
    call,
    clip_pixels,
    clip_text,
    clip_vision,
    ddim,
    picture,
    sd,
    sd_xl,
    t5,
    unet,
    unet_sizes,
    vae,
    xl_sizes,
    xl_unet,
)

SMALL = {"height": 32, "width": 32}


@case("sd15", family="image", denoiser="unet")
def sd15() -> CorpusCase:
    scheduler = df.PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1)
    return CorpusCase(
        df.StableDiffusionPipeline(**sd(scheduler=scheduler)), call(num_inference_steps=3, **SMALL)
    )


@case("sd15-unipc-images-per-prompt", family="image", denoiser="unet")
def sd15_unipc() -> CorpusCase:
    pipe = df.StableDiffusionPipeline(**sd(scheduler=df.UniPCMultistepScheduler(**BETAS)))
    kwargs = call(
        num_inference_steps=3, num_images_per_prompt=2, negative_prompt="a dog", output_type="np", **SMALL
    )
    return CorpusCase(pipe, kwargs, generator="cpu")


@case("sd21-v-prediction", family="image", denoiser="unet")
def sd21() -> CorpusCase:
    scheduler = df.EulerDiscreteScheduler(
        **BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    wide = unet(attention_head_dim=(2, 4), use_linear_projection=True, upcast_attention=True)
    return CorpusCase(
        df.StableDiffusionPipeline(**sd(unet=wide, scheduler=scheduler)), call(guidance_rescale=0.7, **SMALL)
    )


@case("sd15-pag", family="image", denoiser="unet")
def sd15_pag() -> CorpusCase:
    return CorpusCase(df.StableDiffusionPAGPipeline(**sd()), call(pag_scale=2.0, **SMALL))


@case("sd-image-variation", family="image", denoiser="unet")
def sd_image_variation() -> CorpusCase:
    pipe = df.StableDiffusionImageVariationPipeline(
        vae=vae(),
        image_encoder=clip_vision(),
        unet=unet(),
        scheduler=ddim(),
        safety_checker=None,
        feature_extractor=clip_pixels(),
        requires_safety_checker=False,
    )
    return CorpusCase(pipe, {"image": picture(), "num_inference_steps": 2, "output_type": "pt", **SMALL})


@case("lcm", family="image", denoiser="unet")
def lcm() -> CorpusCase:
    parts = sd(unet=unet(time_cond_proj_dim=8), scheduler=df.LCMScheduler(**BETAS))
    return CorpusCase(df.LatentConsistencyModelPipeline(**parts), call(**SMALL))


@case("sdxl", family="image", denoiser="unet")
def sdxl() -> CorpusCase:
    return CorpusCase(
        df.StableDiffusionXLPipeline(**sd_xl()), call(num_inference_steps=3, output_type="pil", **SMALL)
    )


@case("sdxl-dpm-sde-batch", family="image", denoiser="unet")
def sdxl_dpm() -> CorpusCase:
    scheduler = df.DPMSolverMultistepScheduler(
        **BETAS, algorithm_type="sde-dpmsolver++", use_karras_sigmas=True
    )
    pipe = df.StableDiffusionXLPipeline(**sd_xl(scheduler=scheduler))
    return CorpusCase(pipe, call(prompt=[PROMPT, "a dog"], num_inference_steps=3, clip_skip=1, **SMALL))


@case("sdxl-pag", family="image", denoiser="unet")
def sdxl_pag() -> CorpusCase:
    pipe = df.StableDiffusionXLPAGPipeline(**sd_xl(), pag_applied_layers=["mid"])
    return CorpusCase(pipe, call(pag_adaptive_scale=0.1, **SMALL))


@case("kolors", family="image", denoiser="unet")
def kolors() -> CorpusCase:
    # ChatGLM's tokenizer needs a vocabulary file, so the prompt comes encoded.
    wide = df.UNet2DConditionModel(
        **xl_sizes(text_width=WIDTH), encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj"
    )
    pipe = df.KolorsPipeline(
        vae=vae(), text_encoder=None, tokenizer=None, unet=wide, scheduler=df.EulerDiscreteScheduler(**BETAS)
    )
    embeds = {
        "prompt_embeds": torch.randn(1, 8, WIDTH),
        "negative_prompt_embeds": torch.randn(1, 8, WIDTH),
        "pooled_prompt_embeds": torch.randn(1, WIDTH),
        "negative_pooled_prompt_embeds": torch.randn(1, WIDTH),
    }
    return CorpusCase(pipe, call(prompt=None, **embeds, **SMALL))


@case("ldm-text-to-image", family="image", denoiser="unet")
def ldm() -> CorpusCase:
    pipe = df.LDMTextToImagePipeline(
        vqvae=vae(), bert=clip_text(), tokenizer=tokens.clip_tokenizer(), unet=unet(), scheduler=ddim()
    )
    return CorpusCase(pipe, call(output_type="np", **SMALL))


def plain_unet(size: int = 16, **config: object) -> df.UNet2DModel:
    settings = {
        "sample_size": size,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    }
    return df.UNet2DModel(**(settings | config))


@case("ddpm", family="image", denoiser="unet")
def ddpm() -> CorpusCase:
    return CorpusCase(
        df.DDPMPipeline(plain_unet(), df.DDPMScheduler()), {"num_inference_steps": 3, "output_type": "np"}
    )


@case("ddim", family="image", denoiser="unet")
def ddim_pixels() -> CorpusCase:
    pipe = df.DDIMPipeline(plain_unet(), df.DDIMScheduler())
    return CorpusCase(pipe, {"num_inference_steps": 3, "eta": 0.5, "output_type": "np"})


@case("consistency-model", family="image", denoiser="unet")
def consistency() -> CorpusCase:
    net = plain_unet(resnet_time_scale_shift="scale_shift", num_class_embeds=10)
    pipe = df.ConsistencyModelPipeline(net, df.CMStochasticIterativeScheduler(num_train_timesteps=40))
    return CorpusCase(
        pipe, {"class_labels": 3, "num_inference_steps": None, "timesteps": [22, 0], "output_type": "pt"}
    )


@case("ldm-super-resolution", family="image", denoiser="unet")
def ldm_super_resolution() -> CorpusCase:
    vq = df.VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        norm_num_groups=4,
        num_vq_embeddings=16,
    )
    net = plain_unet(in_channels=6, out_channels=3)
    pipe = df.LDMSuperResolutionPipeline(vq, net, df.DDIMScheduler())
    return CorpusCase(pipe, {"image": picture(), "num_inference_steps": 2, "eta": 1.0, "output_type": "np"})


@case("deepfloyd-if", family="image", denoiser="unet")
def deepfloyd() -> CorpusCase:
    return CorpusCase(df.IFPipeline(**pixel_parts()), call(**SMALL))


@case("deepfloyd-if-super-resolution", family="image", denoiser="unet")
def deepfloyd_super_resolution() -> CorpusCase:
    parts = pixel_parts(in_channels=6, class_embed_type="timestep")
    pipe = df.IFSuperResolutionPipeline(**parts, image_noising_scheduler=df.DDPMScheduler())
    return CorpusCase(pipe, call(image=picture(16), **SMALL))


def pixel_parts(**config: object) -> dict[str, object]:
    """DeepFloyd IF: T5, a UNet over pixels that predicts variance too, thresholding in the scheduler."""
    net = unet_sizes() | {
        "in_channels": 3,
        "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "encoder_hid_dim": WIDTH,
        "encoder_hid_dim_type": "text_proj",
        "addition_embed_type": "text",
        "addition_embed_type_num_heads": 2,
        "cross_attention_norm": "layer_norm",
        "resnet_time_scale_shift": "scale_shift",
        "act_fn": "gelu",
    }
    return {
        "tokenizer": tokens.tokenizer(),
        "text_encoder": t5(),
        "unet": df.UNet2DConditionModel(**(net | config)),
        "scheduler": df.DDPMScheduler(
            beta_schedule="squaredcos_cap_v2", thresholding=True, variance_type="learned_range"
        ),
        "watermarker": None,
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@case("marigold-depth", family="image", denoiser="unet")
def marigold() -> CorpusCase:
    pipe = df.MarigoldDepthPipeline(
        unet=unet(in_channels=8),
        vae=vae(),
        scheduler=df.DDIMScheduler(**BETAS, prediction_type="v_prediction", set_alpha_to_one=False),
        text_encoder=clip_text(),
        tokenizer=tokens.clip_tokenizer(),
        prediction_type="depth",
        scale_invariant=True,
        shift_invariant=True,
    )
    return CorpusCase(
        pipe,
        {
            "image": picture(),
            "num_inference_steps": 2,
            "processing_resolution": 0,
            "ensemble_size": 3,
            "ensembling_kwargs": {"max_iter": 1},
            "output_uncertainty": True,
            "output_type": "pt",
        },
    )


@case("marigold-normals", family="image", denoiser="unet")
def marigold_normals() -> CorpusCase:
    pipe = df.MarigoldNormalsPipeline(
        unet=unet(in_channels=8),
        vae=vae(),
        scheduler=df.LCMScheduler(**BETAS),
        text_encoder=clip_text(),
        tokenizer=tokens.clip_tokenizer(),
        prediction_type="normals",
    )
    return CorpusCase(
        pipe, {"image": picture(), "num_inference_steps": 2, "processing_resolution": 0, "output_type": "pt"}
    )


@case("sd-upscale-x4", family="image", denoiser="unet")
def upscale() -> CorpusCase:
    net = unet(
        in_channels=7, class_embed_type="timestep", num_class_embeds=1000, only_cross_attention=(True, False)
    )
    parts = sd(unet=net, vae=vae(levels=3)) | {"low_res_scheduler": df.DDPMScheduler(), "watermarker": None}
    return CorpusCase(df.StableDiffusionUpscalePipeline(**parts), call(image=picture(16), noise_level=20))


@case("sdxl-heun-callback", family="image", denoiser="unet")
def sdxl_callback() -> CorpusCase:
    """A callback changes the latents between steps, each of which calls the UNet twice, and stops early."""

    def dim(
        pipe: object, step: int, timestep: object, tensors: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        return {"latents": tensors["latents"] * 0.9}

    pipe = df.StableDiffusionXLPipeline(**sd_xl(unet=xl_unet(), scheduler=df.HeunDiscreteScheduler(**BETAS)))
    return CorpusCase(pipe, call(callback_on_step_end=dim, denoising_end=0.8, num_inference_steps=3, **SMALL))
