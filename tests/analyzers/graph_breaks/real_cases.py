"""What users do to pipelines before they compile them, each on the smallest SDXL."""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.analyzers.graph_breaks.tiny import TinyCall, sdxl


def plain() -> TinyCall:
    return _latent(sdxl())


def freeu() -> TinyCall:
    call = plain()
    call.pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return call


def attention_slicing() -> TinyCall:
    call = plain()
    call.pipe.enable_attention_slicing()
    return call


def vae_tiling() -> TinyCall:
    """Four tiles."""
    call = sdxl()
    vae = call.pipe.vae
    vae.enable_tiling()
    vae.tile_latent_min_size = vae.tile_sample_min_size = 8
    vae.tile_overlap_factor = 0.0
    call.kwargs.update(height=16, width=16)
    return call


def lora() -> TinyCall:
    """Two adapters, loaded and not fused; the first is active."""
    from peft import LoraConfig

    call = plain()
    for name in ("one", "two"):
        config = LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"])
        call.pipe.unet.add_adapter(config, adapter_name=name)
    call.pipe.set_adapters(["one"], [1.0])
    return call


def cpu_offload() -> TinyCall:
    call = sdxl()
    call.pipe.enable_model_cpu_offload(device="cpu")
    return call


def group_offload() -> TinyCall:
    """Groups of one block each, and of what stands beside the blocks."""
    call = plain()
    cpu = torch.device("cpu")
    call.pipe.enable_group_offload(
        onload_device=cpu, offload_device=cpu, offload_type="block_level", num_blocks_per_group=1
    )
    return call


def layerwise_casting() -> TinyCall:
    call = plain()
    call.pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    return call


def controlnet() -> TinyCall:
    from diffusers import ControlNetModel, StableDiffusionXLControlNetPipeline

    call = plain()
    net = ControlNetModel.from_unet(call.pipe.unet, conditioning_embedding_out_channels=(8,))
    call.pipe = StableDiffusionXLControlNetPipeline(**_parts(call), controlnet=net)
    call.pipe.set_progress_bar_config(disable=True)
    call.kwargs["image"] = torch.zeros(1, 3, 8, 8)
    return call


def ip_adapter() -> TinyCall:
    call = plain()
    unet = call.pipe.unet
    width = unet.config.cross_attention_dim
    image = {"proj.weight": torch.ones(4 * width, 16), "proj.bias": torch.zeros(4 * width)}
    image.update({"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)})
    crossed = [name for name in unet.attn_processors if "attn2" in name]
    weights = {}
    for number, name in enumerate(crossed):
        inner = unet.get_submodule(name.removesuffix(".processor")).to_k.out_features
        for which in ("to_k_ip", "to_v_ip"):
            weights[f"{2 * number + 1}.{which}.weight"] = torch.ones(inner, width)
    unet._load_ip_adapter_weights({"image_proj": image, "ip_adapter": weights})
    call.pipe.set_ip_adapter_scale(0.5)
    call.kwargs["ip_adapter_image_embeds"] = [torch.ones(2, 1, 16)]
    return call


def _latent(call: TinyCall) -> TinyCall:
    """Without the VAE."""
    call.kwargs["output_type"] = "latent"
    return call


def _parts(call: TinyCall) -> dict[str, object]:
    names = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "scheduler")
    return {name: getattr(call.pipe, name) for name in names}


CASES: dict[str, Callable[[], TinyCall]] = {
    "freeu": freeu,
    "attention_slicing": attention_slicing,
    "vae_tiling": vae_tiling,
    "lora": lora,
    "cpu_offload": cpu_offload,
    "controlnet": controlnet,
    "ip_adapter": ip_adapter,
}
