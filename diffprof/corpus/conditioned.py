"""Images steered by more than text: ControlNet, T2I adapter, IP-Adapter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers as df
import torch

from . import CorpusCase, case
from .image_joint import flux_parts, flux_sizes, flux_transformer, qwen_image_parts, sd3_parts
from .image_transformer import (
    SANA,
    SHORT,
    deep_compression_vae,
    hunyuan_dit_parts,
    hunyuan_dit_sizes,
    sana_parts,
)
from .parts import (
    WIDTH,
    call,
    clip_pixels,
    clip_vision,
    euler,
    half_mask,
    picture,
    sd,
    sd_xl,
    unet,
    unet_sizes,
    xl_sizes,
    xl_unet,
)

SMALL = {"height": 32, "width": 32}


# ---- ControlNet ----------------------------------------------------------------------------------


def controlnet(
    sizes: dict[str, Any] | None = None,
    kind: Callable[..., torch.nn.Module] = df.ControlNetModel,
    **config: Any,
) -> object:
    """A copy of the UNet's encoder, its picture twice as large as the latents."""
    kept = {
        k: v
        for k, v in (sizes or unet_sizes()).items()
        if k not in ("sample_size", "out_channels", "up_block_types")
    }
    return kind(**(kept | {"conditioning_embedding_out_channels": (8, 16)} | config))


@case("sd15-controlnet", family="conditioned", denoiser="unet")
def sd_controlnet() -> CorpusCase:
    pipe = df.StableDiffusionControlNetPipeline(**sd(controlnet=controlnet()))
    return CorpusCase(pipe, call(image=picture(), control_guidance_end=0.6, num_inference_steps=3, **SMALL))


@case("sd15-multi-controlnet", family="conditioned", denoiser="unet")
def sd_multi_controlnet() -> CorpusCase:
    pipe = df.StableDiffusionControlNetPipeline(**sd(controlnet=[controlnet(), controlnet()]))
    kwargs = call(
        image=[picture(), picture(seed=1)], controlnet_conditioning_scale=[0.7, 0.3], guess_mode=True, **SMALL
    )
    return CorpusCase(pipe, kwargs)


@case("sd15-controlnet-inpaint", family="conditioned", denoiser="unet")
def sd_controlnet_inpaint() -> CorpusCase:
    pipe = df.StableDiffusionControlNetInpaintPipeline(**sd(controlnet=controlnet()))
    kwargs = call(image=picture(), mask_image=half_mask(), control_image=picture(seed=1), **SMALL)
    return CorpusCase(pipe, kwargs | {"num_inference_steps": 3})


@case("sd15-controlnet-img2img", family="conditioned", denoiser="unet")
def sd_controlnet_img2img() -> CorpusCase:
    pipe = df.StableDiffusionControlNetImg2ImgPipeline(**sd(controlnet=controlnet()))
    return CorpusCase(
        pipe, call(image=picture(), control_image=picture(seed=1), num_inference_steps=3, **SMALL)
    )


@case("sdxl-controlnet", family="conditioned", denoiser="unet")
def xl_controlnet() -> CorpusCase:
    pipe = df.StableDiffusionXLControlNetPipeline(**sd_xl(controlnet=controlnet(xl_sizes())))
    return CorpusCase(pipe, call(image=picture(), **SMALL))


@case("sdxl-controlnet-img2img", family="conditioned", denoiser="unet")
def xl_controlnet_img2img() -> CorpusCase:
    pipe = df.StableDiffusionXLControlNetImg2ImgPipeline(**sd_xl(controlnet=controlnet(xl_sizes())))
    return CorpusCase(
        pipe, call(image=picture(), control_image=picture(seed=1), num_inference_steps=3, **SMALL)
    )


@case("sdxl-controlnet-inpaint", family="conditioned", denoiser="unet")
def xl_controlnet_inpaint() -> CorpusCase:
    pipe = df.StableDiffusionXLControlNetInpaintPipeline(**sd_xl(controlnet=controlnet(xl_sizes())))
    kwargs = call(
        image=picture(), mask_image=half_mask(), control_image=picture(seed=1), num_inference_steps=3
    )
    return CorpusCase(pipe, kwargs | SMALL)


@case("sdxl-controlnet-union", family="conditioned", denoiser="unet")
def xl_controlnet_union() -> CorpusCase:
    union = controlnet(
        xl_sizes(),
        df.ControlNetUnionModel,
        num_control_type=4,
        num_trans_channel=8,
        num_trans_head=2,
        num_trans_layer=1,
        num_proj_channel=8,
    )
    pipe = df.StableDiffusionXLControlNetUnionPipeline(**sd_xl(controlnet=union))
    return CorpusCase(pipe, call(control_image=[picture()], control_mode=[1], **SMALL))


@case("sdxl-controlnet-pag", family="conditioned", denoiser="unet")
def xl_controlnet_pag() -> CorpusCase:
    parts = sd_xl(controlnet=controlnet(xl_sizes()))
    return CorpusCase(
        df.StableDiffusionXLControlNetPAGPipeline(**parts), call(image=picture(), pag_scale=2.0, **SMALL)
    )


@case("sd15-controlnet-xs", family="conditioned", denoiser="unet")
def sd_controlnet_xs() -> CorpusCase:
    net = unet(layers_per_block=2)  # the adapter assumes two
    adapter = df.ControlNetXSAdapter.from_unet(
        net, size_ratio=1.0, conditioning_embedding_out_channels=(8, 16)
    )
    pipe = df.StableDiffusionControlNetXSPipeline(**sd(unet=net, controlnet=adapter))
    return CorpusCase(pipe, call(image=picture(), **SMALL))


@case("sd3-controlnet", family="conditioned", denoiser="transformer")
def sd3_controlnet() -> CorpusCase:
    parts = sd3_parts()
    extra = df.SD3ControlNetModel.from_transformer(
        parts["transformer"], num_layers=1, num_extra_conditioning_channels=0
    )
    pipe = df.StableDiffusion3ControlNetPipeline(**parts, controlnet=extra)
    return CorpusCase(pipe, call(control_image=torch.rand(1, 3, 32, 32), **SMALL))


@case("flux-controlnet", family="conditioned", denoiser="transformer")
def flux_controlnet() -> CorpusCase:
    extra = df.FluxControlNetModel(**flux_sizes(), pooled_projection_dim=WIDTH, num_mode=2)
    pipe = df.FluxControlNetPipeline(**flux_parts(controlnet=extra))
    return CorpusCase(pipe, call(control_image=picture(), control_mode=1, **SMALL, **SHORT))


@case("flux-control", family="conditioned", denoiser="transformer")
def flux_control() -> CorpusCase:
    net = flux_transformer(in_channels=8, out_channels=4)
    return CorpusCase(
        df.FluxControlPipeline(**flux_parts(transformer=net)), call(control_image=picture(), **SMALL, **SHORT)
    )


@case("hunyuan-dit-controlnet", family="conditioned", denoiser="transformer")
def hunyuan_dit_controlnet() -> CorpusCase:
    extra = df.HunyuanDiT2DControlNetModel(transformer_num_layers=4, **hunyuan_dit_sizes())
    net = df.HunyuanDiT2DModel(num_layers=4, **hunyuan_dit_sizes())
    pipe = df.HunyuanDiTControlNetPipeline(**hunyuan_dit_parts(controlnet=extra, transformer=net))
    kwargs = call(control_image=picture(64), use_resolution_binning=False, height=64, width=64)
    return CorpusCase(pipe, kwargs)


@case("qwen-image-controlnet", family="conditioned", denoiser="transformer")
def qwen_image_controlnet() -> CorpusCase:
    extra = df.QwenImageControlNetModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 2, 2),
    )
    pipe = df.QwenImageControlNetPipeline(**qwen_image_parts(controlnet=extra))
    return CorpusCase(pipe, call(control_image=torch.rand(1, 3, 32, 32), **SMALL, **SHORT))


@case("sana-controlnet", family="conditioned", denoiser="transformer")
def sana_controlnet() -> CorpusCase:
    extra = df.SanaControlNetModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        sample_size=16,
    )
    pipe = df.SanaControlNetPipeline(**sana_parts(controlnet=extra, vae=deep_compression_vae()))
    return CorpusCase(pipe, call(control_image=picture(), **SANA, **SMALL, **SHORT))


# ---- T2I adapter ---------------------------------------------------------------------------------


UPSIDE = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
"""Cross-attention on the upper level, where an adapter adds its features before the UNet halves the size."""


def adapter(kind: str = "full_adapter") -> df.T2IAdapter:
    return df.T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=2, adapter_type=kind
    )


@case("sd15-t2i-adapter", family="conditioned", denoiser="unet")
def sd_adapter() -> CorpusCase:
    pipe = df.StableDiffusionAdapterPipeline(**sd(unet=unet(**UPSIDE), adapter=adapter("light_adapter")))
    return CorpusCase(pipe, call(image=picture(), **SMALL))


@case("sd15-multi-t2i-adapter", family="conditioned", denoiser="unet")
def sd_multi_adapter() -> CorpusCase:
    pipe = df.StableDiffusionAdapterPipeline(
        **sd(unet=unet(**UPSIDE), adapter=df.MultiAdapter([adapter(), adapter()]))
    )
    kwargs = call(image=[picture(), picture(seed=1)], adapter_conditioning_scale=[0.7, 0.3], **SMALL)
    return CorpusCase(pipe, kwargs)


@case("sdxl-t2i-adapter", family="conditioned", denoiser="unet")
def xl_adapter() -> CorpusCase:
    pipe = df.StableDiffusionXLAdapterPipeline(**sd_xl(unet=xl_unet(**UPSIDE), adapter=adapter()))
    return CorpusCase(pipe, call(image=picture(), adapter_conditioning_factor=0.5, **SMALL))


# ---- IP-Adapter ----------------------------------------------------------------------------------


def with_ip_adapter(net: torch.nn.Module) -> object:
    """Load a random IP-Adapter as checkpoints have it: a projection, and keys and values by layer number."""
    from diffusers.models.embeddings import ImageProjection

    width = net.config.cross_attention_dim
    image = ImageProjection(cross_attention_dim=width, image_embed_dim=WIDTH, num_image_text_embeds=4)
    projection = {
        "proj.weight": image.image_embeds.weight,
        "proj.bias": image.image_embeds.bias,
        "norm.weight": image.norm.weight,
        "norm.bias": image.norm.bias,
    }
    layers: dict[str, torch.Tensor] = {}
    number = 1  # odd: only cross-attention layers carry weights
    for name in net.attn_processors:
        if name.endswith("attn2.processor"):
            hidden = net.get_submodule(name.removesuffix(".processor")).to_q.out_features
            layers[f"{number}.to_k_ip.weight"] = torch.randn(hidden, width) * 0.2
            layers[f"{number}.to_v_ip.weight"] = torch.randn(hidden, width) * 0.2
            number += 2
    net._load_ip_adapter_weights({"image_proj": projection, "ip_adapter": layers})
    return net


@case("sd15-ip-adapter", family="conditioned", denoiser="unet")
def sd_ip_adapter() -> CorpusCase:
    parts = sd(unet=with_ip_adapter(unet())) | {
        "image_encoder": clip_vision(),
        "feature_extractor": clip_pixels(),
    }
    return CorpusCase(df.StableDiffusionPipeline(**parts), call(ip_adapter_image=picture(), **SMALL))


@case("sdxl-ip-adapter-scaled", family="conditioned", denoiser="unet")
def xl_ip_adapter() -> CorpusCase:
    parts = sd_xl(
        unet=with_ip_adapter(xl_unet()), image_encoder=clip_vision(), feature_extractor=clip_pixels()
    )
    pipe = df.StableDiffusionXLPipeline(**parts)
    pipe.set_ip_adapter_scale(0.4)
    return CorpusCase(pipe, call(ip_adapter_image=picture(), **SMALL))


@case("sd15-ip-adapter-masks", family="conditioned", denoiser="unet")
def sd_ip_adapter_masks() -> CorpusCase:
    parts = sd(unet=with_ip_adapter(unet())) | {
        "image_encoder": clip_vision(),
        "feature_extractor": clip_pixels(),
    }
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., :16] = 1
    kwargs = call(ip_adapter_image=picture(), cross_attention_kwargs={"ip_adapter_masks": [mask]}, **SMALL)
    return CorpusCase(df.StableDiffusionPipeline(**parts), kwargs)


@case("sdxl-instantid-like", family="conditioned", denoiser="unet")
def xl_controlnet_ip_adapter() -> CorpusCase:
    """ControlNet and image embeddings together, as face-identity pipelines use them."""
    parts = sd_xl(
        unet=with_ip_adapter(xl_unet()),
        controlnet=controlnet(xl_sizes()),
        image_encoder=clip_vision(),
        feature_extractor=clip_pixels(),
        scheduler=euler(),
    )
    pipe = df.StableDiffusionXLControlNetPipeline(**parts)
    return CorpusCase(
        pipe, call(image=picture(), ip_adapter_image_embeds=[torch.randn(2, 1, WIDTH)], **SMALL)
    )
