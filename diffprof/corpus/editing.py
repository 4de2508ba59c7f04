"""Images made from images: image-to-image, inpainting, instructions, inversion."""

from __future__ import annotations

import diffusers as df
import torch

from diffprof.model.pipeline import Pipeline

from . import CorpusCase, case
from .image_joint import (
    chroma_parts,
    flux_parts,
    flux_transformer,
    qwen_image_parts,
    sd3_parts,
    sd3_transformer,
)
from .image_transformer import SANA, SHORT, pixart_transformer, sana_parts, sana_transformer, z_image_parts
from .image_unet import pixel_parts
from .parts import BETAS, call, flow_vae, half_mask, picture, sd, sd_xl, t5, unet, vae, xl_unet
from .tokens import tokenizer

SMALL = {"height": 32, "width": 32}


def paint(**kwargs: object) -> dict[str, object]:
    """Call arguments of an inpainting pipeline."""
    return call(image=picture(), mask_image=half_mask(), num_inference_steps=3) | kwargs


# ---- UNets ---------------------------------------------------------------------------------------


@case("sd15-img2img", family="editing", denoiser="unet")
def sd_img2img() -> CorpusCase:
    scheduler = df.DPMSolverMultistepScheduler(**BETAS)
    return CorpusCase(
        df.StableDiffusionImg2ImgPipeline(**sd(scheduler=scheduler)),
        call(image=picture(), num_inference_steps=4),
    )


@case("sd15-inpaint", family="editing", denoiser="unet")
def sd_inpaint() -> CorpusCase:
    return CorpusCase(df.StableDiffusionInpaintPipeline(**sd(unet=unet(in_channels=9))), paint(**SMALL))


@case("sd15-inpaint-plain-unet", family="editing", denoiser="unet")
def sd_inpaint_plain() -> CorpusCase:
    """A text-to-image UNet: the known half of the latents is put back after each step."""
    parts = sd(scheduler=df.EulerAncestralDiscreteScheduler(**BETAS))
    return CorpusCase(df.StableDiffusionInpaintPipeline(**parts), paint(strength=0.9, **SMALL))


@case("sd15-instruct-pix2pix", family="editing", denoiser="unet")
def sd_instruct() -> CorpusCase:
    parts = sd(unet=unet(in_channels=8))
    return CorpusCase(
        df.StableDiffusionInstructPix2PixPipeline(**parts), call(image=picture(), image_guidance_scale=1.5)
    )


@case("sd2-depth2img", family="editing", denoiser="unet")
def sd_depth() -> CorpusCase:
    parts = sd(unet=unet(in_channels=5))
    del parts["safety_checker"], parts["feature_extractor"]
    pipe = df.StableDiffusionDepth2ImgPipeline(**parts, depth_estimator=None, feature_extractor=None)
    kwargs = call(image=picture(), depth_map=torch.randn(1, 32, 32), num_inference_steps=4)
    return CorpusCase(pipe, kwargs)


@case("sd-latent-upscale", family="editing", denoiser="unet")
def sd_latent_upscale() -> CorpusCase:
    net = df.UNet2DConditionModel(
        act_fn="gelu",
        attention_head_dim=8,
        norm_num_groups=None,
        block_out_channels=(32, 32, 64, 64),
        time_cond_proj_dim=128 + 16,  # two embedded noise levels and the pooled prompt
        conv_in_kernel=1,
        conv_out_kernel=1,
        cross_attention_dim=16,
        down_block_types=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        in_channels=8,
        mid_block_type=None,
        only_cross_attention=False,
        out_channels=5,
        resnet_time_scale_shift="scale_shift",
        time_embedding_type="fourier",
        timestep_post_act="gelu",
        up_block_types=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
        layers_per_block=1,
        sample_size=32,
    )
    parts = sd(unet=net, scheduler=df.EulerDiscreteScheduler(prediction_type="sample"))
    del parts["safety_checker"], parts["feature_extractor"]
    return CorpusCase(df.StableDiffusionLatentUpscalePipeline(**parts), call(image=picture(64)))


@case("lcm-img2img", family="editing", denoiser="unet")
def lcm_img2img() -> CorpusCase:
    parts = sd(unet=unet(time_cond_proj_dim=8), scheduler=df.LCMScheduler(**BETAS))
    return CorpusCase(
        df.LatentConsistencyModelImg2ImgPipeline(**parts), call(image=picture(), num_inference_steps=3)
    )


@case("sdxl-img2img", family="editing", denoiser="unet")
def xl_img2img() -> CorpusCase:
    return CorpusCase(
        df.StableDiffusionXLImg2ImgPipeline(**sd_xl()), call(image=picture(), num_inference_steps=4)
    )


@case("sdxl-refiner", family="editing", denoiser="unet")
def xl_refiner() -> CorpusCase:
    """The refiner takes over a noisy latent, has one text encoder, and is told an aesthetic score."""
    net = xl_unet(cross_attention_dim=16, projection_class_embeddings_input_dim=8 * 5 + 16)
    parts = sd_xl(unet=net, text_encoder=None, tokenizer=None)
    pipe = df.StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True)
    kwargs = call(image=torch.randn(1, 4, 16, 16), denoising_start=0.5, num_inference_steps=6)
    return CorpusCase(pipe, kwargs)


@case("sdxl-inpaint", family="editing", denoiser="unet")
def xl_inpaint() -> CorpusCase:
    pipe = df.StableDiffusionXLInpaintPipeline(**sd_xl(unet=xl_unet(in_channels=9)))
    return CorpusCase(pipe, paint(**SMALL))


@case("sdxl-inpaint-pag", family="editing", denoiser="unet")
def xl_inpaint_pag() -> CorpusCase:
    return CorpusCase(df.StableDiffusionXLPAGInpaintPipeline(**sd_xl()), paint(pag_scale=2.0, **SMALL))


@case("sdxl-instruct-pix2pix", family="editing", denoiser="unet")
def xl_instruct() -> CorpusCase:
    pipe = df.StableDiffusionXLInstructPix2PixPipeline(**sd_xl(unet=xl_unet(in_channels=8)))
    return CorpusCase(pipe, call(image=picture(), **SMALL))


@case("deepfloyd-if-inpaint", family="editing", denoiser="unet")
def deepfloyd_inpaint() -> CorpusCase:
    return CorpusCase(df.IFInpaintingPipeline(**pixel_parts()), paint())


class Inverted:
    """A pipeline that must invert its image before it can edit it: both halves are one call here."""

    def __init__(self, pipe: Pipeline, invert: dict[str, object]) -> None:
        self.pipe = pipe
        self.invert = invert
        self.components = pipe.components

    def __getattr__(self, name: str) -> object:
        return getattr(self.__dict__["pipe"], name)

    def __call__(self, **kwargs: object) -> object:
        self.pipe.invert(**self.invert)
        return self.pipe(**kwargs)


def leditspp(pipe: Pipeline) -> CorpusCase:
    inversion = {"image": picture(), "num_inversion_steps": 4, "skip": 0.2, "source_prompt": "a cat"}
    kwargs = {
        "editing_prompt": ["a dog", "a hat"],
        "reverse_editing_direction": [False, True],
        "edit_guidance_scale": [4.0, 3.0],
        "edit_threshold": [0.8, 0.9],
        "output_type": "pt",
    }
    return CorpusCase(Inverted(pipe, inversion), kwargs, generator=None)


def sde_solver() -> df.DPMSolverMultistepScheduler:
    return df.DPMSolverMultistepScheduler(**BETAS, algorithm_type="sde-dpmsolver++", solver_order=2)


@case("leditspp-sd", family="editing", denoiser="unet")
def leditspp_sd() -> CorpusCase:
    deep = unet(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # attention maps are read at a quarter of the latents' size
    return leditspp(df.LEditsPPPipelineStableDiffusion(**sd(unet=deep, scheduler=sde_solver())))


@case("leditspp-sdxl", family="editing", denoiser="unet")
def leditspp_sdxl() -> CorpusCase:
    return leditspp(df.LEditsPPPipelineStableDiffusionXL(**sd_xl(scheduler=sde_solver())))


# ---- transformers --------------------------------------------------------------------------------


@case("sd3-img2img", family="editing", denoiser="transformer")
def sd3_img2img() -> CorpusCase:
    return CorpusCase(
        df.StableDiffusion3Img2ImgPipeline(**sd3_parts()),
        call(image=picture(), num_inference_steps=4, **SMALL),
    )


@case("sd3-inpaint", family="editing", denoiser="transformer")
def sd3_inpaint() -> CorpusCase:
    net = sd3_transformer(in_channels=16, out_channels=16)
    parts = sd3_parts(transformer=net, vae=flow_vae(16))
    return CorpusCase(df.StableDiffusion3InpaintPipeline(**parts), paint(**SMALL))


@case("flux-img2img", family="editing", denoiser="transformer")
def flux_img2img() -> CorpusCase:
    return CorpusCase(
        df.FluxImg2ImgPipeline(**flux_parts()), call(image=picture(), num_inference_steps=4, **SMALL, **SHORT)
    )


@case("flux-inpaint", family="editing", denoiser="transformer")
def flux_inpaint() -> CorpusCase:
    return CorpusCase(df.FluxInpaintPipeline(**flux_parts()), paint(**SMALL, **SHORT))


@case("flux-fill", family="editing", denoiser="transformer")
def flux_fill() -> CorpusCase:
    # packed: latents 8, masked image 8, and a mask of one value a pixel: 2x2 latents of 2x2 pixels, 16
    net = flux_transformer(in_channels=8 + 8 + 16, out_channels=8)
    return CorpusCase(
        df.FluxFillPipeline(**flux_parts(transformer=net, vae=flow_vae(2))), paint(**SMALL, **SHORT)
    )


@case("flux-kontext", family="editing", denoiser="transformer")
def flux_kontext() -> CorpusCase:
    kwargs = call(image=picture(), max_area=32 * 32, _auto_resize=False, **SMALL, **SHORT)
    return CorpusCase(df.FluxKontextPipeline(**flux_parts()), kwargs)


@case("qwen-image-img2img", family="editing", denoiser="transformer")
def qwen_img2img() -> CorpusCase:
    pipe = df.QwenImageImg2ImgPipeline(**qwen_image_parts())
    return CorpusCase(pipe, call(image=picture(), num_inference_steps=4, **SMALL, **SHORT))


@case("qwen-image-inpaint", family="editing", denoiser="transformer")
def qwen_inpaint() -> CorpusCase:
    return CorpusCase(df.QwenImageInpaintPipeline(**qwen_image_parts()), paint(**SMALL, **SHORT))


@case("sana-sprint-img2img", family="editing", denoiser="transformer")
def sana_sprint_img2img() -> CorpusCase:
    net = sana_transformer(guidance_embeds=True, qk_norm="rms_norm_across_heads")
    pipe = df.SanaSprintImg2ImgPipeline(**sana_parts(transformer=net, scheduler=df.SCMScheduler()))
    return CorpusCase(pipe, call(image=picture(), strength=0.9, **SANA, **SMALL, **SHORT))


@case("pixart-sigma-pag", family="editing", denoiser="transformer")
def pixart_pag() -> CorpusCase:
    pipe = df.PixArtSigmaPAGPipeline(
        tokenizer=tokenizer(),
        text_encoder=t5(),
        vae=vae(),
        transformer=pixart_transformer(),
        scheduler=df.DDIMScheduler(),
        pag_applied_layers=["0"],
    )
    return CorpusCase(pipe, call(use_resolution_binning=False, pag_scale=2.0, **SMALL, **SHORT))


@case("chroma-img2img", family="editing", denoiser="transformer")
def chroma_img2img() -> CorpusCase:
    pipe = df.ChromaImg2ImgPipeline(**chroma_parts())
    return CorpusCase(pipe, call(image=picture(), num_inference_steps=4, **SMALL, **SHORT))


@case("z-image-img2img", family="editing", denoiser="transformer")
def z_image_img2img() -> CorpusCase:
    pipe = df.ZImageImg2ImgPipeline(**z_image_parts())
    return CorpusCase(pipe, call(image=picture(), num_inference_steps=4, **SMALL, **SHORT))


@case("z-image-inpaint", family="editing", denoiser="transformer")
def z_image_inpaint() -> CorpusCase:
    return CorpusCase(df.ZImageInpaintPipeline(**z_image_parts()), paint(**SHORT))


@case("sd15-pag-inpaint", family="editing", denoiser="unet")
def sd_pag_inpaint() -> CorpusCase:
    pipe = df.StableDiffusionPAGInpaintPipeline(**sd(unet=unet(in_channels=9)), pag_applied_layers=["mid"])
    return CorpusCase(pipe, paint(pag_scale=1.5))
