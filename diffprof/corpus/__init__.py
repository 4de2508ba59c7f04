"""A corpus of tiny diffusers pipelines, one of each family and architecture, with seeded random weights.

No file, no network: every component is built from a configuration. ``CASES`` maps a name to its ``Entry``;
``entry.build()`` gives a fresh ``CorpusCase`` (pipeline, call arguments) that runs in a fraction of a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from diffprof.model.pipeline import Pipeline

SEED = 7
MODULES = (
    "image_unet",
    "image_transformer",
    "image_joint",
    "staged",
    "editing",
    "conditioned",
    "adapted",
    "video",
    "video_wan",
    "audio",
)


@dataclass
class CorpusCase:
    """A pipeline on the CPU and how it is called.

    ``generator``: "device" draws noise where the pipeline runs, "cpu" on the CPU, ``None`` passes none.
    ``offload(pipe, device)`` replaces ``pipe.to(device)`` on an accelerator; on the CPU it is not called.
    """

    pipe: Pipeline
    kwargs: dict[str, object]
    generator: str | None = "device"
    offload: Callable[[Pipeline, torch.device], None] | None = None

    def call(self, device: torch.device | str = "cpu") -> list[torch.Tensor]:
        """Run with tensor arguments moved to ``device``. Returns every array of the output, on the CPU."""
        kwargs = moved(self.kwargs, torch.device(device))
        if self.generator is not None:
            where = device if self.generator == "device" else "cpu"
            kwargs["generator"] = torch.Generator(where).manual_seed(SEED)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)  # for pipelines that draw from the global generator too
            return arrays_of(self.pipe(**kwargs))


@dataclass(frozen=True)
class Entry:
    name: str
    family: str
    denoiser: str
    builder: Callable[[], CorpusCase] = field(repr=False)

    def build(self) -> CorpusCase:
        """A fresh case, the same one every time; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            case = self.builder()
            for module in modules_of(case.pipe):
                module.eval()
                wake(module)
        case.pipe.set_progress_bar_config(disable=True)
        return case


CASES: dict[str, Entry] = {}


def case(
    name: str, *, family: str, denoiser: str
) -> Callable[[Callable[[], CorpusCase]], Callable[[], CorpusCase]]:
    """Register a builder. ``denoiser`` is what predicts the noise: "unet", "transformer" or "prior"."""

    def register(builder: Callable[[], CorpusCase]) -> Callable[[], CorpusCase]:
        if name in CASES:
            raise ValueError(f"two cases are called {name!r}")
        CASES[name] = Entry(name, family, denoiser, builder)
        return builder

    return register


def modules_of(pipe: Pipeline) -> list[torch.nn.Module]:
    return [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]


@torch.no_grad()
def wake(module: torch.nn.Module) -> None:
    """Give weights that start at zero (zero convolutions, adaLN-zero) a value: a zero hides its input."""
    for parameter in module.parameters():
        if parameter.dim() > 1 and parameter.is_floating_point() and not parameter.any():
            parameter.normal_(std=0.05)


def moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(moved(item, device) for item in value)
    return value


def arrays_of(output: object) -> list[torch.Tensor]:
    """The tensors, numpy arrays and images in a pipeline's output, in order, as CPU tensors."""
    if isinstance(output, torch.Tensor):
        return [output.detach().cpu()]
    if isinstance(output, np.ndarray):
        return [torch.from_numpy(output.copy())]
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, Sequence) and not isinstance(output, str):
        return [array for item in output for array in arrays_of(item)]
    if hasattr(output, "getbands"):
        return [torch.from_numpy(np.array(output))]
    return []


for _module in MODULES:
    importlib.import_module(f"{__name__}.{_module}")
