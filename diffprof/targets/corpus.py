"""A pipeline of the corpus as a target: `corpus:NAME`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, TypeVar

from diffprof.model.errors import UsageError
from diffprof.targets.names import CORPUS

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options
    from diffprof.targets.pipeline_call import PipelineCall

T = TypeVar("T")


@dataclass(frozen=True)
class CorpusTarget:
    """A tiny pipeline by its name in `diffprof.corpus.CASES`, built anew for each run."""

    spec: str
    kind: str = field(default="corpus", init=False)

    @property
    def name(self) -> str:
        return self.spec.removeprefix(CORPUS)

    def load_code(self) -> None:
        """Import the corpus, and with it most of diffusers."""
        import_module("diffprof.corpus")

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        import torch

        from diffprof.corpus import CASES, SEED, moved
        from diffprof.targets.calls import swap_scheduler, with_options
        from diffprof.targets.names import nearest
        from diffprof.targets.pipeline_call import PipelineCall

        if self.name not in CASES:
            hint = nearest(self.name, list(CASES)) or "`diffprof survey` lists them."
            raise UsageError(f"The corpus has no pipeline {self.name!r}.", hint)
        if options.dtype is not None or options.baseline:
            what = "A pipeline of the corpus is scanned as it is."
            raise UsageError(what, "Leave out --dtype and --baseline.")
        case = CASES[self.name].build()
        where = device.torch_device
        if case.offload is not None and where.type != "cpu":
            case.offload(case.pipe, where)
        else:
            device.place(case.pipe)
        if options.scheduler is not None:
            swap_scheduler(case.pipe, options.scheduler)
        args, kwargs = with_options(case.pipe, (), moved(case.kwargs, where), options)
        if case.generator is not None:
            drawn = where if case.generator == "device" else "cpu"
            kwargs["generator"] = torch.Generator(drawn).manual_seed(SEED)
        weights = "random" if device.wants_values else "none"
        return play(PipelineCall(case.pipe, args, kwargs, self, weights, [], seed=SEED))
