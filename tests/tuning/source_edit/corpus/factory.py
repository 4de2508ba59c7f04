"""make() for `diffprof scan factory.py:make`."""
import torch
from diffusers import StableDiffusionXLPipeline as SDXL, UniPCMultistepScheduler
import diffusers


def make(name: str = "stabilityai/stable-diffusion-xl-base-1.0", *, dtype=torch.float32):
    """A pipeline and how it is called."""
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(name, torch_dtype=torch.float32, use_safetensors=True)
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.to("cuda")
    steps = 30
    return pipe, {"prompt": "a cat", "num_inference_steps": steps}
