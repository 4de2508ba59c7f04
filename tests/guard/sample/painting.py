"""Two small pipelines with loops of their own, as a project has them."""

import torch
from diffusers import DiffusionPipeline, EulerDiscreteScheduler, UNet2DModel


class Painter(DiffusionPipeline):
    def __init__(self, unet, scheduler):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    def start(self):
        size = self.unet.config.sample_size
        return torch.randn(1, 3, size, size, device=self.device)

    @torch.no_grad()
    def __call__(self, num_inference_steps=3):
        sample = self.start()
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        self.scheduler.set_begin_index(0)
        for t in self.scheduler.timesteps:
            noise = self.unet(self.scheduler.scale_model_input(sample, t), t).sample
            sample = self.scheduler.step(noise, t, sample).prev_sample
        return sample


class Sketcher(Painter):
    @torch.no_grad()
    def __call__(self, num_inference_steps=3, strength=0.5):
        sample = self.start()
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        self.scheduler.set_begin_index(0)
        for t in self.scheduler.timesteps:
            noise = strength * self.unet(self.scheduler.scale_model_input(sample, t), t).sample
            sample = self.scheduler.step(noise, t, sample).prev_sample
        return sample.clamp(-1, 1)


def unet():
    return UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )


def make_painter():
    return Painter(unet(), EulerDiscreteScheduler())


def make_sketcher():
    return Sketcher(unet(), EulerDiscreteScheduler()), {"num_inference_steps": 4}
