"""The call of the twin: the arguments of the original's, for few steps and a small picture."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffprof.model.pipeline import Pipeline, with_role
from diffprof.targets.calls import bound, names
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.twin.shrinking import WIDTHS
from diffprof.targets.twin.sizes import LENGTHS, PIXELS, Sizes, seconds_of, taken

STEPS = 3
"""Denoising steps: a first, a last, and a steady one between."""

SEED = 0


def small_call(call: PipelineCall, made: Pipeline, factor: int, sizes: Sizes) -> dict[str, object]:
    """The call's arguments for its twin `made`: tensors and pictures of its widths and sizes."""
    smaller = _Smaller(_width_map(call.pipe, factor), sizes)
    given = bound(call.pipe, call.args, call.kwargs)
    kwargs = {name: smaller.argument(name, value) for name, value in given.items()}
    known, _ = names(made)
    steps = kwargs.get("num_inference_steps")
    few = _few_steps(made, kwargs)
    if "num_inference_steps" in known and not (isinstance(steps, int) and steps <= few):
        kwargs["num_inference_steps"] = few
    wanted: dict[str, float] = {"height": sizes.small_height, "width": sizes.small_width}
    wanted |= dict.fromkeys(LENGTHS, sizes.small_frames)
    wanted |= {name: value * sizes.sound for name, value in seconds_of(made, given).items()}
    wanted |= sizes.texts(taken(made, given))
    # What would make the picture as large as the original's.
    wanted |= {"use_resolution_binning": False, "_auto_resize": False}
    wanted["max_area"] = sizes.small_height * sizes.small_width
    if isinstance(side := taken(made, given).get("resolution"), int):
        wanted["resolution"] = sizes.of_side(side)
    kwargs |= {name: value for name, value in wanted.items() if name in known}
    if "output_type" in known and kwargs.get("output_type") != "latent":
        kwargs["output_type"] = "np"
    return kwargs


def _few_steps(pipe: Pipeline, kwargs: Mapping[str, object]) -> int:
    """STEPS that are done: of a picture that is changed with some strength only that share is."""
    default = inspect.signature(pipe.__call__).parameters.get("strength")
    strength = kwargs.get("strength", default.default if default is not None else None)
    if isinstance(strength, int | float) and 0.0 < strength < 1.0:
        return math.ceil(STEPS / strength)
    return STEPS


def _width_map(pipe: Pipeline, factor: int) -> dict[int, int]:
    """Last dimensions of embeddings -> those of the twin."""
    found = {}
    for part in (*with_role(pipe, "denoiser").values(), *with_role(pipe, "text_encoder").values()):
        config: Any = getattr(part, "config", None)
        items = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
        for key in WIDTHS:
            value = items.get(key)
            for each in value if isinstance(value, list | tuple) else [value]:
                if isinstance(each, int) and not isinstance(each, bool) and each % factor == 0:
                    found[each] = each // factor
        # What else is projected to a width, such as an IP-Adapter's embeddings of pictures.
        later: object = getattr(part, "encoder_hid_proj", None)
        for module in later.modules() if isinstance(later, torch.nn.Module) else ():
            if isinstance(module, torch.nn.Linear) and module.in_features % factor == 0:
                found.setdefault(module.in_features, module.in_features // factor)
    return found


@dataclass(frozen=True)
class _Smaller:
    """widths: of embeddings, and those of the twin."""

    widths: Mapping[int, int]
    sizes: Sizes

    def argument(self, name: str, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            return torch.Generator().manual_seed(SEED)
        if isinstance(value, torch.Tensor):
            return self.tensor(name, value)
        if hasattr(value, "getbands"):
            return value.resize(tuple(min(PIXELS, side) for side in value.size))
        if isinstance(value, list | tuple):
            return type(value)(self.argument(name, each) for each in value)
        if isinstance(value, dict):
            return {key: self.argument(key, each) for key, each in value.items()}
        return value

    def tensor(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A random one; what counts or masks is zero."""
        shape = list(value.shape)
        if "embed" not in name and len(shape) >= 3:
            smaller = self.sizes.of_shape(shape)
            packed = "latents" in name and len(shape) == 3 and smaller == shape
            shape = [shape[0], self.sizes.of_tokens(shape[1]), shape[2]] if packed else smaller
        elif shape:
            shape[-1] = self.widths.get(shape[-1], shape[-1])
        generator = torch.Generator().manual_seed(SEED)
        if value.is_floating_point():
            return torch.randn(shape, generator=generator).to(value.dtype)
        return torch.zeros(shape, dtype=value.dtype)
