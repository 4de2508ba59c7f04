"""The components of a pipeline as rows of the recording."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from diffprof.model.pipeline import Pipeline, components, role, walked
from diffprof.model.recording import Component
from diffprof.targets.pipeline_call import describe


def components_of(pipe: Pipeline) -> tuple[Component, ...]:
    """One row a component, in the pipeline's order; components that are None are left out."""
    return tuple(_row(name, part) for name, part in components(pipe).items())


def _row(name: str, part: object) -> Component:
    module = getattr(part, "_orig_mod", part)
    if not isinstance(part, torch.nn.Module):
        config = _config(part)
        if said := getattr(part, "is_stand_in", None):
            config = {"stand_in": said, **config}
        return Component(name=name, role=role(name, part), cls=type(part).__name__, config=config)
    parameters = list(part.parameters())
    sizes: Counter[torch.dtype] = Counter()
    for parameter in parameters:
        sizes[parameter.dtype] += parameter.numel()
    return Component(
        name=name,
        role=role(name, part),
        cls=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in parameters),
        dtype=str(sizes.most_common(1)[0][0]).removeprefix("torch.") if sizes else None,
        device=str(parameters[0].device) if parameters else None,
        compiled=module is not part or any(m._compiled_call_impl is not None for _, m in walked(part)),
        config=_config(module),
    )


def _config(part: object) -> dict[str, object]:
    config: Any = getattr(part, "config", None)
    if hasattr(config, "to_dict"):
        config = config.to_dict()
    try:
        items = dict(config or {}).items()
    except (TypeError, ValueError):
        return {}
    return {str(key): describe(value) for key, value in items if not str(key).startswith("_")}
