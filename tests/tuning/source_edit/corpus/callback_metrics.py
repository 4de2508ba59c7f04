import logging
import time

import torch
from diffusers import StableDiffusionXLPipeline

log = logging.getLogger("app.render")
history = []


def on_step_end(pipe, step, timestep, callback_kwargs):
    latents = callback_kwargs["latents"]
    mean, std = latents.mean().item(), latents.std().item()
    peak = latents.abs().max().item()
    started = time.perf_counter()
    print(f"{step:>3d}  t={timestep.item():.0f}  mean={mean:+.3f}", end="\n", flush=True)
    log.info("peak %.3f after %.1f s", peak, time.perf_counter() - started)
    history.append(float(latents.norm()))
    if latents.isnan().any(): raise FloatingPointError("NaN at step %d" % step)
    return callback_kwargs


def quiet(pipe, step, timestep, callback_kwargs):
    norm = callback_kwargs["latents"].norm().item()
    callback_kwargs["norm"] = norm
    return callback_kwargs


def with_walrus(pipe, step, timestep, kwargs):
    print("t is", (t := int(timestep)))
    if step == 0:
        # only once
        logging.info("t=%s", timestep.item())
    return kwargs | {"t": t}


if __name__ == "__main__":
    pipe = StableDiffusionXLPipeline.from_pretrained("stabilityai/sdxl-turbo").to("cuda")
    pipe("a cat", callback_on_step_end=on_step_end)
