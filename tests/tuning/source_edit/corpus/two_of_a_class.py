import diffusers
from diffusers import StableDiffusionXLPipeline

drafts = StableDiffusionXLPipeline.from_pretrained("segmind/SSD-1B")
finals = diffusers.StableDiffusionXLPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0")

for prompt in ("a cat", "a dog"):
    drafts(prompt).images[0].save(f"{prompt}.draft.png")
    finals(prompt).images[0].save(f"{prompt}.png")
