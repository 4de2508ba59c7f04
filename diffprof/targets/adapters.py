"""Adapters on a pipeline that is built without weights: as loading them leaves it.

{"ip_adapter": {"tokens": 4, "scale": 0.8}}                          embeds a picture in so many tokens
{"lora": {"rank": 64, "modules": ["to_q", ...], "fused": true}}      of the denoiser's modules of these names
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from diffprof.model.pipeline import Pipeline, with_role


def add_adapters(pipe: Pipeline, described: Mapping[str, Any]) -> None:
    """Give a pipeline the adapters that an architecture's file describes."""
    if told := described.get("ip_adapter"):
        pipe.load_ip_adapter(
            _ip_weights(pipe, told["tokens"]), subfolder="", weight_name="", low_cpu_mem_usage=False
        )
        pipe.set_ip_adapter_scale(told["scale"])
    if told := described.get("lora"):
        _add_lora(pipe, told["rank"], told["modules"], fused=told["fused"])


def _ip_weights(pipe: Pipeline, tokens: int) -> dict[str, dict[str, torch.Tensor]]:
    """What the file of an IP-Adapter holds, by its shapes: a projection of the picture's embedding to
    `tokens` of the denoiser's width, and keys and values for each attention to the text."""
    (denoiser,) = with_role(pipe, "denoiser").values()
    width = denoiser.config.cross_attention_dim
    seen = pipe.image_encoder.config.projection_dim
    crossing = [name for name in denoiser.attn_processors if not name.endswith("attn1.processor")]
    attentions = [denoiser.get_submodule(name.removesuffix(".processor")) for name in crossing]
    return {
        "image_proj": {
            "proj.weight": _small(denoiser, width * tokens, seen),
            "proj.bias": _small(denoiser, width * tokens),
            "norm.weight": _small(denoiser, width),
            "norm.bias": _small(denoiser, width),
        },
        "ip_adapter": {
            f"{2 * number + 1}.{name}_ip.weight": _small(
                denoiser, attention.get_submodule(name).out_features, width
            )
            for number, attention in enumerate(attentions)
            for name in ("to_k", "to_v")
        },
    }


def _small(denoiser: torch.nn.Module, *shape: int) -> torch.Tensor:
    """Random values of the denoiser's type, where it is; none where its weights have none."""
    return 0.02 * torch.randn(shape, dtype=denoiser.dtype, device=denoiser.device)


def _add_lora(pipe: Pipeline, rank: int, modules: Sequence[str], *, fused: bool) -> None:
    from peft import LoraConfig

    for name, denoiser in with_role(pipe, "denoiser").items():
        denoiser.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(modules)))
        if fused:
            pipe.fuse_lora(components=[name])
