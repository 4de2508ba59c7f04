"""The components of a pipeline as rows, with their roles told by what they can do, not by their names."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import Any

import torch

from diffprof.recording import Component
from diffprof.targets.scene import describe


def components_of(pipe: Any) -> tuple[Component, ...]:
    """One row a component, in the pipeline's order; components that are None are left out."""
    held = getattr(pipe, "components", None) or {}
    return tuple(_row(name, part) for name, part in held.items() if part is not None and not _plain(part))


def role_of(part: Any) -> str:
    """denoiser, scheduler, vae, text_encoder, tokenizer or other."""
    if hasattr(part, "step") and hasattr(part, "set_timesteps"):
        return "scheduler"
    if not isinstance(part, torch.nn.Module):
        return "tokenizer" if hasattr(part, "batch_decode") or hasattr(part, "input_ids") else "other"
    module = getattr(part, "_orig_mod", part)
    if hasattr(module, "decode") and hasattr(module, "encode"):
        return "vae"
    taken = inspect.signature(module.forward).parameters
    if taken.keys() & {"timestep", "timesteps"}:
        # A ControlNet sees timesteps too, and scales what it adds to the denoiser.
        return "other" if taken.keys() & {"conditioning_scale", "controlnet_cond"} else "denoiser"
    if "input_ids" in taken:
        return "text_encoder"
    return "vae" if hasattr(module, "decode") else "other"


def _row(name: str, part: Any) -> Component:
    module = getattr(part, "_orig_mod", part)
    if not isinstance(part, torch.nn.Module):
        config = _config(part)
        if getattr(part, "is_stand_in", False):
            config = {"stand_in": "made-up token ids: no vocabulary files", **config}
        return Component(name=name, role=role_of(part), cls=type(part).__name__, config=config)
    parameters = list(part.parameters())
    sizes: Counter[torch.dtype] = Counter()
    for parameter in parameters:
        sizes[parameter.dtype] += parameter.numel()
    return Component(
        name=name,
        role=role_of(part),
        cls=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        dtype=str(sizes.most_common(1)[0][0]).removeprefix("torch.") if sizes else None,
        device=str(parameters[0].device) if parameters else None,
        compiled=module is not part or any(m._compiled_call_impl is not None for m in part.modules()),
        config=_config(module),
    )


def _config(part: Any) -> dict[str, Any]:
    config: Any = getattr(part, "config", None)
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    try:
        items = dict(config or {}).items()
    except (TypeError, ValueError):
        return {}
    return {str(key): describe(value) for key, value in items if not str(key).startswith("_")}


def _plain(part: Any) -> bool:
    return isinstance(part, bool | int | float | str | tuple | list | dict)
