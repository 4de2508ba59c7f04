"""Pipelines of several stages (a prior and a decoder), pixel-quantized decoders, and 3D shapes."""

from __future__ import annotations

import diffusers as df
import torch

from . import CorpusCase, case, tokens
from .parts import (
    BETAS,
    PROMPT,
    STEPS,
    WIDTH,
    call,
    clip_pixels,
    clip_text_projected,
    clip_vision,
    picture,
    sd,
    t5,
    unet,
    unet_sizes,
)

SMALL = {"height": 32, "width": 32}


# ---- Kandinsky -----------------------------------------------------------------------------------


def movq() -> df.VQModel:
    """Kandinsky's decoder: a VQ model whose norms look at the latents."""
    return df.VQModel(
        block_out_channels=(32, 32),  # spatial norm has 32 groups
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=4,
        norm_type="spatial",
        num_vq_embeddings=16,
        vq_embed_dim=4,
    )


def kandinsky_unet(**config: object) -> df.UNet2DConditionModel:
    settings = unet_sizes() | {
        "out_channels": 8,
        "addition_embed_type": "image",
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "encoder_hid_dim": WIDTH,
        "encoder_hid_dim_type": "image_proj",
        "resnet_time_scale_shift": "scale_shift",
    }
    return df.UNet2DConditionModel(**(settings | config))


def prior_transformer() -> df.PriorTransformer:
    model = df.PriorTransformer(
        num_attention_heads=2, attention_head_dim=8, embedding_dim=WIDTH, num_layers=1
    )
    model.clip_std = torch.nn.Parameter(
        torch.ones_like(model.clip_std)
    )  # zero at first, which erases the result
    return model


def kandinsky_prior_parts() -> dict[str, object]:
    return {
        "prior": prior_transformer(),
        "image_encoder": clip_vision(),
        "text_encoder": clip_text_projected(),
        "tokenizer": tokens.clip_tokenizer(),
        "scheduler": df.UnCLIPScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        "image_processor": clip_pixels(),
    }


def image_embeds() -> dict[str, torch.Tensor]:
    return {"image_embeds": torch.randn(1, WIDTH), "negative_image_embeds": torch.randn(1, WIDTH)}


def kandinsky_scheduler() -> df.DDPMScheduler:
    return df.DDPMScheduler(**BETAS, variance_type="learned_range", clip_sample=True)


@case("kandinsky22-prior", family="image", denoiser="prior")
def kandinsky_prior() -> CorpusCase:
    return CorpusCase(df.KandinskyV22PriorPipeline(**kandinsky_prior_parts()), call(negative_prompt="a dog"))


@case("kandinsky22-decoder", family="image", denoiser="unet")
def kandinsky_decoder() -> CorpusCase:
    pipe = df.KandinskyV22Pipeline(kandinsky_unet(), kandinsky_scheduler(), movq())
    return CorpusCase(pipe, {**image_embeds(), "num_inference_steps": 3, "output_type": "pt", **SMALL})


@case("kandinsky22-combined", family="image", denoiser="unet")
def kandinsky_combined() -> CorpusCase:
    prior = {f"prior_{name}": part for name, part in kandinsky_prior_parts().items()}
    pipe = df.KandinskyV22CombinedPipeline(
        unet=kandinsky_unet(), scheduler=kandinsky_scheduler(), movq=movq(), **prior
    )
    return CorpusCase(pipe, call(prior_num_inference_steps=2, **SMALL))


@case("kandinsky22-img2img", family="editing", denoiser="unet")
def kandinsky_img2img() -> CorpusCase:
    pipe = df.KandinskyV22Img2ImgPipeline(kandinsky_unet(), kandinsky_scheduler(), movq())
    kwargs = {
        **image_embeds(),
        "image": picture(),
        "strength": 0.7,
        "num_inference_steps": 4,
        "output_type": "pt",
    }
    return CorpusCase(pipe, kwargs | SMALL)


@case("kandinsky22-inpaint", family="editing", denoiser="unet")
def kandinsky_inpaint() -> CorpusCase:
    import numpy as np

    mask: np.ndarray = np.zeros((32, 32), dtype=np.float32)
    mask[:, :16] = 1
    pipe = df.KandinskyV22InpaintPipeline(kandinsky_unet(in_channels=9), kandinsky_scheduler(), movq())
    kwargs = {**image_embeds(), "image": picture(), "mask_image": mask, "num_inference_steps": 3}
    return CorpusCase(pipe, kwargs | {"output_type": "pt", **SMALL})


@case("kandinsky22-controlnet", family="conditioned", denoiser="unet")
def kandinsky_controlnet() -> CorpusCase:
    net = kandinsky_unet(in_channels=8, addition_embed_type="image_hint")
    pipe = df.KandinskyV22ControlnetPipeline(net, kandinsky_scheduler(), movq())
    kwargs = {
        **image_embeds(),
        "hint": torch.randn(1, 3, 128, 128),
        "num_inference_steps": 2,
        "output_type": "pt",
    }
    return CorpusCase(pipe, kwargs | SMALL)


@case("kandinsky3", family="image", denoiser="unet")
def kandinsky3() -> CorpusCase:
    net = df.Kandinsky3UNet(
        in_channels=4,
        time_embedding_dim=8,
        groups=2,
        attention_head_dim=4,
        layers_per_block=3,  # fewer are not built right
        block_out_channels=(8, 16),
        cross_attention_dim=8,
        encoder_hid_dim=WIDTH,
    )
    pipe = df.Kandinsky3Pipeline(
        tokenizer=tokens.tokenizer(),
        text_encoder=t5(),
        unet=net,
        scheduler=df.DDPMScheduler(**BETAS),
        movq=movq(),
    )
    return CorpusCase(pipe, call(**SMALL))


# ---- Stable Cascade and Wuerstchen ---------------------------------------------------------------


def cascade_unet(**config: object) -> df.models.StableCascadeUNet:
    settings = {
        "in_channels": 4,
        "out_channels": 4,
        "conditioning_dim": 16,
        "block_out_channels": (16, 16),
        "num_attention_heads": (2, 2),
        "down_num_layers_per_block": (1, 1),
        "up_num_layers_per_block": (1, 1),
        "down_blocks_repeat_mappers": (1, 1),
        "up_blocks_repeat_mappers": (1, 1),
        "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),) * 2,
        "clip_text_pooled_in_channels": WIDTH,
        "dropout": (0.0, 0.0),
    }
    return df.models.StableCascadeUNet(**(settings | config))


@case("stable-cascade-prior", family="image", denoiser="prior")
def cascade_prior() -> CorpusCase:
    net = cascade_unet(
        in_channels=16,
        out_channels=16,
        clip_text_in_channels=WIDTH,
        clip_image_in_channels=WIDTH,
        switch_level=(False,),
    )
    pipe = df.StableCascadePriorPipeline(
        tokenizer=tokens.clip_tokenizer(),
        text_encoder=clip_text_projected(),
        prior=net,
        scheduler=df.DDPMWuerstchenScheduler(),
        feature_extractor=clip_pixels(),
        image_encoder=clip_vision(),
    )
    return CorpusCase(pipe, call(images=[picture()], height=128, width=128))


@case("stable-cascade-decoder", family="image", denoiser="unet")
def cascade_decoder() -> CorpusCase:
    from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel

    pipe = df.StableCascadeDecoderPipeline(
        decoder=cascade_unet(patch_size=2, clip_text_pooled_in_channels=WIDTH, effnet_in_channels=16),
        tokenizer=tokens.clip_tokenizer(),
        text_encoder=clip_text_projected(),
        scheduler=df.DDPMWuerstchenScheduler(),
        vqgan=PaellaVQModel(bottleneck_blocks=1, num_vq_embeddings=8, embed_dim=16),
        latent_dim_scale=4.0,
    )
    return CorpusCase(pipe, call(image_embeddings=torch.randn(1, 16, 4, 4), guidance_scale=2.0))


# ---- unCLIP --------------------------------------------------------------------------------------


@case("stable-unclip", family="image", denoiser="unet")
def stable_unclip() -> CorpusCase:
    from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
        StableUnCLIPImageNormalizer,
    )

    parts = sd(unet=unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH))
    del parts["safety_checker"], parts["feature_extractor"]
    pipe = df.StableUnCLIPPipeline(
        prior_tokenizer=tokens.clip_tokenizer(),
        prior_text_encoder=clip_text_projected(),
        prior=prior_transformer(),
        prior_scheduler=df.DDPMScheduler(variance_type="fixed_small_log", prediction_type="sample"),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=df.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        **parts,
    )
    return CorpusCase(pipe, call(prior_num_inference_steps=2, **SMALL))


# ---- shapes --------------------------------------------------------------------------------------


@case("shap-e", family="3d", denoiser="prior")
def shap_e() -> CorpusCase:
    from diffusers.pipelines.shap_e import ShapERenderer

    prior = df.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        embedding_dim=16,
        num_embeddings=32,
        embedding_proj_dim=WIDTH,
        time_embed_dim=32,
        num_layers=1,
        clip_embed_dim=32,
        additional_embeddings=0,
        time_embed_act_fn="gelu",
        norm_in_type="layer",
        encoder_hid_proj_type=None,
        added_emb_type=None,
    )
    renderer = ShapERenderer(
        param_shapes=((8, 93), (8, 8), (8, 8), (8, 8)), d_latent=16, d_hidden=8, n_output=12
    )
    scheduler = df.HeunDiscreteScheduler(
        beta_schedule="exp", num_train_timesteps=1024, prediction_type="sample", use_karras_sigmas=True
    )
    pipe = df.ShapEPipeline(
        prior=prior,
        text_encoder=clip_text_projected(),
        tokenizer=tokens.clip_tokenizer(),
        scheduler=scheduler,
        shap_e_renderer=renderer,
    )
    return CorpusCase(
        pipe, {"prompt": PROMPT, "num_inference_steps": STEPS, "frame_size": 8, "output_type": "latent"}
    )
