"""What repeats is run once: parts of a VAE are told again, and longer calls told from a short one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TypeVar

import torch

from diffprof.devices.simulated import Observer
from diffprof.devices.simulated.forward_replay import replaying
from diffprof.targets import Options, Target

Run = TypeVar("Run")

RUN_STEPS = 4
"""Steps that are run of a longer call, where they tell it; all of them elsewhere."""


def asked_options(
    target: object, options: Options | None, steps: int | None, call: Mapping[str, object] | None = None
) -> Options:
    """With these steps; and with these arguments of the call, which a target that is no name has already."""
    chosen = options or Options()
    if isinstance(target, str) and call:
        chosen = dataclasses.replace(chosen, call={**chosen.call, **call})
    return chosen if steps is None else dataclasses.replace(chosen, steps=steps)


def asked_steps(target: Target, options: Options) -> int | None:
    """Denoising steps that a call is asked for: the model card's of a built-in target where nothing else is
    said. None: as many as the target makes by itself."""
    if options.steps is not None or "num_inference_steps" in options.call:
        return options.steps
    return getattr(getattr(target, "info", None), "steps", None)


def in_few_steps(
    run: Callable[[Options], Run], options: Options, steps: int | None, tells: Callable[[Run, int], bool]
) -> Run:
    """What a run gives that tells a call of so many steps: of RUN_STEPS if it does, else of all."""
    if steps is not None and steps > RUN_STEPS:
        few = run(dataclasses.replace(options, steps=RUN_STEPS))
        if tells(few, steps):
            return few
    return run(dataclasses.replace(options, steps=steps))


def repeating_parts(model: torch.nn.Module, observer: Observer) -> AbstractContextManager[None]:
    """Inside, parts of a model that launch the same run twice, as a decoder does of tile after tile and frame
    after frame; the observer is told of the others. What is no more than a layer is run."""
    return replaying([part for part in model.children() if any(part.children())], observer)
