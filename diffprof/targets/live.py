"""A live pipeline given to the Python API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from diffprof.errors import UsageError

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options
    from diffprof.targets.scene import Scene

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectTarget:
    """A pipeline that the caller holds, with the arguments of its call. It is used where it is: the caller of
    `run` places it, and gives it back."""

    pipe: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    kind: str = field(default="object", init=False)

    @property
    def spec(self) -> str:
        return type(self.pipe).__name__

    @property
    def name(self) -> str:
        return self.spec

    def run(self, play: Callable[[Scene], T], device: Device, options: Options) -> T:
        from diffprof.targets.calls import swap_scheduler, with_options
        from diffprof.targets.scene import Scene

        if not callable(self.pipe) or not hasattr(self.pipe, "components"):
            raise UsageError(
                f"{type(self.pipe).__name__} is not a pipeline: it can't be called, or has no components.",
                "Give a diffusers pipeline, or the name of a target.",
            )
        args, kwargs = with_options(self.pipe, self.args, self.kwargs, options)
        before = getattr(self.pipe, "scheduler", None)
        try:
            if options.scheduler is not None:
                swap_scheduler(self.pipe, options.scheduler)
            return play(Scene(self.pipe, args, kwargs, self, weights_of(self.pipe)))
        finally:
            if before is not None:
                self.pipe.scheduler = before


def weights_of(pipe: Any) -> str:
    """`none` where a parameter has no values, else `real`."""
    import torch

    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module) and any(p.is_meta for p in part.parameters()):
            return "none"
    return "real"
