"""The smallest SDXL pipeline that has every kind of part, smaller ones of our own, and one call of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler
from torch import nn


@dataclass
class TinyCall:
    """What the probe needs of a pipeline call."""

    pipe: Any
    kwargs: dict[str, Any]
    args: tuple[Any, ...] = ()
    calls: int = field(default=0)
    around: Any = None

    def run(self) -> Any:
        self.calls += 1
        return self.pipe(*self.args, **self.kwargs)


def sdxl(*, blocks: int = 1) -> TinyCall:
    """blocks: transformer blocks in each of the two transformers."""
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        sample_size=8,
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn",
        attention_head_dim=(4,),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(blocks,),
        projection_class_embeddings_input_dim=80,
        cross_attention_dim=16,
    )
    vae = AutoencoderKL(
        block_out_channels=[8],
        norm_num_groups=4,
        down_block_types=["DownEncoderBlock2D"],
        up_block_types=["UpDecoderBlock2D"],
        latent_channels=4,
        sample_size=8,
    )
    pipe = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=unet,
        scheduler=EulerDiscreteScheduler(timestep_spacing="leading"),
    )
    pipe.set_progress_bar_config(disable=True)
    kwargs = {
        "prompt_embeds": torch.ones(1, 7, 16),
        "negative_prompt_embeds": torch.ones(1, 7, 16),
        "pooled_prompt_embeds": torch.ones(1, 32),
        "negative_pooled_prompt_embeds": torch.ones(1, 32),
        "num_inference_steps": 3,
        "height": 8,
        "width": 8,
        "output_type": "np",
    }
    return TinyCall(pipe, kwargs)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Pipe:
    """Two models, called one after the other."""

    def __init__(self, **parts: nn.Module) -> None:
        self.components = parts

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for part in self.components.values():
                x = part(x)
        return x


def small(**parts: nn.Module) -> TinyCall:
    return TinyCall(Pipe(**parts), {"x": torch.ones(2, 4)})


class Denoising(DiffusionPipeline):
    """A short pipeline with a progress bar and a loop of its own, that calls a scheduler as SDXL does."""

    def __init__(self, unet: nn.Module, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, x: torch.Tensor, steps: int) -> torch.Tensor:
        self.scheduler.set_timesteps(steps)
        timesteps = self.scheduler.timesteps
        with self.progress_bar(total=steps) as progress_bar:
            for i, t in enumerate(timesteps):
                scaled = self.scheduler.scale_model_input(x, t)
                noise = self.unet(scaled)
                x = self.scheduler.step(noise, t, x, return_dict=False)[0]
                if i < len(timesteps):
                    progress_bar.update()
        return x


def denoising() -> TinyCall:
    pipe = Denoising(Small(), EulerDiscreteScheduler(timestep_spacing="leading"))
    pipe.set_progress_bar_config(disable=True)
    return TinyCall(pipe, {"x": torch.ones(2, 4), "steps": 3})
