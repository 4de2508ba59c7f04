# Types as comments, from the days of Python 2.
import torch
from diffusers import StableDiffusionXLPipeline

DTYPE = torch.float32


def load(name, device="cuda"):
    # type: (str, str) -> StableDiffusionXLPipeline
    pipe = StableDiffusionXLPipeline.from_pretrained(
        name, torch_dtype=DTYPE,
        safety_checker=None
    )
    return pipe.to(device)


def main():  # type: () -> None
    pipe = load("stabilityai/stable-diffusion-xl-base-1.0")
    for seed in range(4):
        image = pipe("a cat", generator=torch.Generator("cuda").manual_seed(seed)).images[0]
        image.save(f"{seed}.png")


if __name__ == '__main__':
    main()
