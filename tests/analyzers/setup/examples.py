"""For each setup rule, a recording that fires exactly it and one that is its mended form."""

from __future__ import annotations

from typing import Any

from diffprof.model.recording import (
    Component,
    DeviceInfo,
    Grade,
    KindCosts,
    MemoryUse,
    Recording,
    Setup,
    SetupPart,
    TargetInfo,
)
from tests.builders import make_recording

GB = 10**9

CUDA = DeviceInfo(
    spec="cuda",
    kind="cuda",
    name="NVIDIA H100",
    grade=Grade.MEASURED,
    memory_bytes=80 * GB,
    details={"capability": "9.0"},
)
CPU = DeviceInfo(spec="cpu", kind="cpu", name="a CPU", grade=Grade.MEASURED)
DISTILLED_UNET = Component(
    name="unet",
    role="denoiser",
    cls="Anything",
    config={"cross_attention_dim": 2048, "block_out_channels": [8]},
)
SDXL_UNET = Component(
    name="unet",
    role="denoiser",
    cls="Anything",
    config={
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "block_out_channels": [320, 640, 1280],
    },
)
SD15_UNET = Component(
    name="unet",
    role="denoiser",
    cls="Anything",
    config={"cross_attention_dim": 768, "block_out_channels": [320, 640, 1280, 1280]},
)


def denoiser(**more: Any) -> SetupPart:
    """A denoiser with nothing left to set up."""
    fields: dict[str, Any] = {
        "name": "unet",
        "role": "denoiser",
        "dtypes": {"bfloat16": 5 * GB},
        "convs": 50,
        "convs_channels_last": 50,
        "linears": 700,
        "quantized": 400,
        "attention": {"AttnProcessor2_0": 140},
        "fusable": 0,
        "compiled": "whole",
        "repeated": ("BasicTransformerBlock",),
    }
    return SetupPart(**{**fields, **more})


def vae(**more: Any) -> SetupPart:
    """A VAE with nothing left to set up."""
    fields: dict[str, Any] = {
        "name": "vae",
        "role": "vae",
        "dtypes": {"bfloat16": GB // 10},
        "convs": 60,
        "convs_channels_last": 60,
        "linears": 8,
        "quantized": 8,
        "attention": {"AttnProcessor2_0": 2},
        "fusable": 0,
        "tiling": False,
        "slicing": False,
        "compiled": "whole",
    }
    return SetupPart(**{**fields, **more})


def recorded(
    *parts: SetupPart,
    unet: Component = DISTILLED_UNET,
    steps: int = 4,
    device: DeviceInfo = CUDA,
    memory: MemoryUse | None = None,
    costs: KindCosts | None = None,
    **setup: Any,
) -> Recording:
    """A call of a pipeline of these models, which needs nothing else. timeline: none."""
    target = TargetInfo(spec="sdxl", kind="builtin", pipeline="Any", components=(unet,), steps=steps)
    given = parts or (denoiser(), vae())
    fields: dict[str, Any] = {"parts": given, "matmul_tf32": True, "progress_bar": False, "costs": costs}
    return make_recording(target=target, device=device, memory=memory, setup=Setup(**{**fields, **setup}))


def used(decoding: int, peak: int | None = None) -> MemoryUse:
    """A call whose weights are 5 GB and whose decoding peaks at so much."""
    return MemoryUse(
        grade=Grade.MEASURED,
        weights_bytes=5 * GB,
        peak_bytes=peak or decoding,
        capacity_bytes=80 * GB,
        by_phase={"decode": decoding},
    )


BAD: dict[str, Recording] = {
    "SET001": recorded(denoiser(dtypes={"float32": 10 * GB}, quantized=0, linears=0)),
    "SET002": recorded(denoiser(), vae(dtypes={"float16": GB // 10}, force_upcast=True), upcasts_vae=True),
    "SET003": recorded(
        denoiser(unfused={"AttnProcessor": "diffusers.models.attention_processor.AttnProcessor2_0"})
    ),
    "SET004": recorded(denoiser(dispatched=True), packages=("flash_attn_interface",)),
    "SET005": recorded(denoiser(fusable=140, quantized=0, linears=0)),
    "SET006": recorded(denoiser(adapted=560), adapters=("style",)),
    "SET007": recorded(denoiser(), vae(tiling=True), memory=used(8 * GB)),
    "SET008": recorded(denoiser(), vae(), memory=used(90 * GB)),
    "SET009": recorded(denoiser(hooks=("model",)), offload="model", memory=used(8 * GB)),
    "SET010": recorded(denoiser(convs_channels_last=0), device=CPU),
    "SET011": recorded(denoiser(compiled=None)),
    "SET012": recorded(denoiser(), inductor={"conv_1x1_as_mm": False, "epilogue_fusion": False}),
    "SET013": recorded(progress_bar=True),
    "SET014": recorded(denoiser(quantized=0)),
    "SET015": recorded(denoiser(), unet=SD15_UNET, steps=30),
    "SET016": recorded(denoiser(cacheable=True), steps=30),
    "SET017": recorded(denoiser(), unet=SDXL_UNET),
}

GOOD: dict[str, Recording] = {
    "SET001": recorded(denoiser(), vae()),
    # It has to stay in float32 beside a float16 denoiser.
    "SET002": recorded(
        denoiser(dtypes={"float16": 5 * GB}), vae(dtypes={"float32": GB // 10}, force_upcast=True)
    ),
    "SET003": recorded(denoiser()),
    "SET004": recorded(denoiser(dispatched=True, backend="_flash_3"), packages=("flash_attn_interface",)),
    "SET005": recorded(denoiser(fusable=0)),
    "SET006": recorded(denoiser(adapted=0)),
    # Without tiles the decoding would not fit.
    "SET007": recorded(denoiser(), vae(tiling=True), memory=used(30 * GB)),
    "SET008": recorded(denoiser(), vae(tiling=True), memory=used(70 * GB)),
    "SET009": recorded(
        denoiser(hooks=("model",), dtypes={"bfloat16": 70 * GB}), offload="model", memory=used(8 * GB)
    ),
    "SET010": recorded(denoiser(convs_channels_last=50), device=CPU),
    "SET011": recorded(denoiser(compiled="regional")),
    "SET012": recorded(denoiser(), inductor={"conv_1x1_as_mm": True, "epilogue_fusion": False}),
    "SET013": recorded(progress_bar=False),
    "SET014": recorded(denoiser(quantized=400)),
    "SET015": recorded(denoiser(), unet=SD15_UNET, steps=4),
    "SET016": recorded(denoiser(cacheable=True, cache="FirstBlockCacheConfig"), steps=30),
    "SET017": recorded(denoiser(), unet=DISTILLED_UNET),
}
