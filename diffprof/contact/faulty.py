"""A pipeline with faults that were put in: the tiny SDXL with DDIM, whose tables stay on the host while its
steps are on the device."""

from __future__ import annotations

from typing import Any


def faulty() -> tuple[Any, dict[str, Any]]:
    import torch
    from diffusers import DDIMScheduler

    from diffprof.devices import resolve_device
    from diffprof.targets import Options, resolve

    made: list[Any] = []
    target = resolve("tiny-sdxl")
    with torch.random.fork_rng(devices=[]):
        target.run(lambda scene: made.append((scene.pipe, scene.kwargs)), resolve_device("cpu"), Options())
    pipe, kwargs = made[0]
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe, {**kwargs, "num_inference_steps": 3, "height": 64, "width": 64, "output_type": "pt"}
