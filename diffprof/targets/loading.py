"""Let code that loads checkpoints go on without their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffprof.targets.construct import assemble, finished, model_of, random_values, weightless

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options

WHERE = ("subfolder", "revision", "cache_dir", "token", "local_files_only")
"""Arguments of `from_pretrained` that say where a configuration is."""


@contextmanager
def weights_left_out(options: Options, device: Device) -> Iterator[Callable[[Any], str]]:
    """Where the options say `weights=False`, pipelines and models loaded inside are built from their
    configurations: empty, or with random values where the device computes.

    Gives the function that says what a pipeline's weights are.
    """
    from diffprof.targets.live import weights_of

    if options.weights:
        yield weights_of
        return
    from diffusers import DiffusionPipeline, ModelMixin
    from transformers import PreTrainedModel

    empty = not device.wants_values

    def pipeline(cls: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        return _pipeline(cls, str(name), kwargs, empty)

    def model(cls: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        where = {key: kwargs[key] for key in WHERE if kwargs.get(key) is not None}
        with weightless() if empty else random_values(None):
            return finished(model_of(cls, str(name), **where), _dtype(kwargs))

    replaced = [(DiffusionPipeline, pipeline), (ModelMixin, model), (PreTrainedModel, model)]
    before = [(owner, vars(owner)["from_pretrained"]) for owner, _ in replaced]
    try:
        for owner, function in replaced:
            owner.from_pretrained = classmethod(function)
        yield lambda pipe: "none" if empty else "random"
    finally:
        for owner, original in before:
            owner.from_pretrained = original


def _pipeline(cls: Any, name: str, kwargs: dict[str, Any], empty: bool) -> Any:
    from diffusers import DiffusionPipeline

    from diffprof.targets.checkpoint import downloaded

    folder = Path(name) if Path(name).is_dir() else downloaded(name, with_weights=False)
    own = None if cls is DiffusionPipeline else cls
    return assemble([folder], empty=empty, dtype=_dtype(kwargs), cls=own, given=kwargs)


def _dtype(kwargs: dict[str, Any]) -> torch.dtype:
    named = kwargs.get("dtype") or kwargs.get("torch_dtype")
    return named if isinstance(named, torch.dtype) else torch.float32
