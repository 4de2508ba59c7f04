from diffusers import DiffusionPipeline


def make():
    return DiffusionPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0").to("cuda")
