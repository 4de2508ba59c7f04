"""Let code that loads checkpoints go on without their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diffprof.devices.simulated.host_placeholders import hold_on_host
from diffprof.targets.construct import assemble, built_instead, named_dtype, random_values, weightless
from diffprof.targets.pipeline import components

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options


@contextmanager
def weights_left_out(options: Options, device: Device) -> Iterator[Callable[[Any], str]]:
    """Where the options say `weights=False`, pipelines and models loaded inside are built from their
    configurations: empty (host tensors without memory, which offloading may move like any), or with random
    values where the device computes.

    Gives the function that says what a pipeline's weights are.
    """
    from diffprof.targets.live import weights_of

    if options.weights:
        yield weights_of
        return
    from diffusers import DiffusionPipeline

    empty = not device.wants_values

    def from_pretrained(cls: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        return _pipeline(cls, str(name), kwargs, empty)

    original = vars(DiffusionPipeline)["from_pretrained"]
    try:
        DiffusionPipeline.from_pretrained = classmethod(from_pretrained)
        with built_instead(weightless if empty else lambda: random_values(None), hold_on_host):
            yield lambda pipe: "none" if empty else "random"
    finally:
        DiffusionPipeline.from_pretrained = original


def _pipeline(cls: Any, name: str, kwargs: dict[str, Any], empty: bool) -> Any:
    from diffusers import DiffusionPipeline

    from diffprof.targets.checkpoint import downloaded

    folder = Path(name) if Path(name).is_dir() else downloaded(name, with_weights=False)
    own = None if cls is DiffusionPipeline else cls
    pipe = assemble([folder], empty=empty, dtype=named_dtype(kwargs), cls=own, given=kwargs)
    for part in components(pipe).values():
        if isinstance(part, torch.nn.Module):
            hold_on_host(part)
    return pipe
