"""Factories of the contact: pipelines that no checkpoint is needed for."""

from __future__ import annotations

LAYERS, SINGLE = 6, 12
"""A third of Flux's 19 and 38 blocks."""

TOKENS = 512
"""Of Flux's second text encoder."""


def flux_third() -> tuple[object, dict[str, object]]:
    """Flux of a third of its depth, at 1024 x 1024: 4 B parameters, random, in bfloat16. The text encoders
    are left out: prompt embeddings are drawn."""
    import torch
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            transformer = FluxTransformer2DModel(
                num_layers=LAYERS, num_single_layers=SINGLE, guidance_embeds=True
            )
            vae = AutoencoderKL(**FLUX_VAE)
            prompt = torch.randn(1, TOKENS, 4096)
            pooled = torch.randn(1, 768)
    finally:
        torch.set_default_dtype(before)
    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, max_image_seq_len=4096
    )
    pipe = FluxPipeline(
        scheduler=scheduler,
        vae=vae.eval(),
        transformer=transformer.eval(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )
    pipe.set_progress_bar_config(disable=True)
    call = {"height": 1024, "width": 1024, "num_inference_steps": 3, "output_type": "pt"}
    return pipe, {**call, "prompt_embeds": prompt, "pooled_prompt_embeds": pooled}


SD_VAE: dict[str, object] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "sample_size": 512,
}
"""As stable-diffusion-v1-5 has it."""

FLUX_VAE: dict[str, object] = {
    **SD_VAE,
    "latent_channels": 16,
    "scaling_factor": 0.3611,
    "shift_factor": 0.1159,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""As black-forest-labs/FLUX.1-dev has it."""
