"""SDXL's UNet and VAE decode at full size, without weights: one graph each."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.analyzers.graph_breaks.conftest import in_child


def look() -> dict[str, Any]:
    """In the child: both captured, with the most memory that it took, in bytes."""
    import resource

    from diffusers import AutoencoderKL, UNet2DConditionModel

    from diffprof.analyzers.graph_breaks.component import capture_part
    from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
    from diffprof.analyzers.graph_breaks.repeats import Repeats
    from diffprof.analyzers.graph_breaks.signature import signature

    with torch.device("meta"), torch.no_grad():
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            use_linear_projection=True,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
        given = {
            "sample": torch.zeros(2, 4, 128, 128),
            "timestep": torch.tensor(10.0),
            "encoder_hidden_states": torch.zeros(2, 77, 2048),
            "added_cond_kwargs": {"text_embeds": torch.zeros(2, 1280), "time_ids": torch.zeros(2, 6)},
            "return_dict": False,
        }
        latents = torch.zeros(1, 4, 128, 128)
        repeats = Repeats(unet)
        unet(**given)
        repeats.close()
    parts = [
        Compilable("unet", unet, "__call__", "denoiser", blocks=list(repeats.seen.values())),
        Compilable("vae.decode", vae, "decode", "vae"),
    ]
    parts[0].calls.append(CallSignature(signature(((), given)), signature(())))
    parts[1].calls.append(CallSignature(signature(((latents,), {"return_dict": False})), signature(())))
    found: dict[str, Any] = {part.name: capture_part(part) for part in parts}
    found["parameters"] = sum(p.numel() for p in unet.parameters())
    found["resident"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return found


@pytest.mark.nightly
def test_sdxl_at_full_size_is_fullgraph_ready_and_takes_no_memory() -> None:
    found = in_child(look)
    unet, vae = found["unet"], found["vae.decode"]
    assert unet.capture.whole
    assert vae.capture.whole
    # torch 2.13, diffusers 0.42.1: 3616 call nodes, also when nothing is folded.
    assert 3000 < unet.capture.ops < 4500
    assert sum(times for name, times in unet.folded if name == "BasicTransformerBlock") == 70
    assert 2.5e9 < found["parameters"] < 2.6e9
    assert found["resident"] < 2e9
