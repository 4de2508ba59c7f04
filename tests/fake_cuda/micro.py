"""A factory for the commands: the smallest Stable Diffusion."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from diffprof.corpus import parts


def stable_diffusion() -> tuple[Any, dict[str, Any]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = diffusers.StableDiffusionPipeline(**parts.sd())
    pipe.set_progress_bar_config(disable=True)
    return pipe, parts.call(height=32, width=32, num_inference_steps=2)
