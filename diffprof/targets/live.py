"""A live pipeline given to the Python API."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options
    from diffprof.targets.pipeline_call import PipelineCall

T = TypeVar("T")


@dataclass(frozen=True)
class ObjectTarget:
    """A pipeline that the caller holds, with the arguments of its call. It is used where it is: the caller of
    `run` places it, and gives it back."""

    pipe: Pipeline
    args: tuple[Any, ...]
    kwargs: dict[str, object]
    kind: str = field(default="object", init=False)

    @property
    def spec(self) -> str:
        return type(self.pipe).__name__

    @property
    def name(self) -> str:
        return self.spec

    def load_code(self) -> None:
        """What it imports is known only when it runs."""

    def run(self, play: Callable[[PipelineCall], T], device: Device, options: Options) -> T:
        from diffprof.targets.calls import swap_scheduler, with_options
        from diffprof.targets.pipeline_call import PipelineCall

        if not callable(self.pipe) or not hasattr(self.pipe, "components"):
            raise UsageError(
                f"{type(self.pipe).__name__} is not a pipeline: it can't be called, or has no components.",
                "Give a diffusers pipeline, or the name of a target.",
            )
        if options.dtype is not None or options.baseline:
            raise UsageError(
                "A live pipeline is scanned as it is: dtype and baseline are for targets.",
                "Call pipe.to(dtype) before, or give the function that makes the pipeline.",
            )
        args, kwargs = with_options(self.pipe, self.args, self.kwargs, options)
        before = getattr(self.pipe, "scheduler", None)
        try:
            if options.scheduler is not None:
                swap_scheduler(self.pipe, options.scheduler)
            return play(PipelineCall(self.pipe, args, kwargs, self, weights_of(self.pipe)))
        finally:
            if before is not None:
                self.pipe.scheduler = before


def weights_of(pipe: Pipeline) -> str:
    """`none` where a parameter has a shape only, else `real`."""
    import torch

    from diffprof.devices.simulated import is_known

    parts = [p for p in (getattr(pipe, "components", None) or {}).values() if isinstance(p, torch.nn.Module)]
    return "real" if all(is_known(p) for part in parts for p in part.parameters()) else "none"


def settle(pipe: Pipeline, device: Device) -> list[str]:
    """Put a pipeline that its maker left on the CPU, or on another GPU, onto the device; notes on what was
    done.

    Parts that are there already stay, without values where the device wants none. So does a pipeline that is
    spread over several GPUs.
    """
    import torch

    from diffprof.devices.borrow import same_place
    from diffprof.model.pipeline import offloaded

    wanted = device.torch_device
    parts = [p for p in (getattr(pipe, "components", None) or {}).values() if isinstance(p, torch.nn.Module)]
    if device.kind == "cpu" or not parts:
        return []
    if offloaded(pipe):
        return ["Offloading hooks place the pipeline's modules; they were left as they are."]
    places = {p.device for part in parts for p in part.parameters()}
    others = sorted(
        {str(each) for each in places if each.type == wanted.type and not same_place(each, wanted)}
    )
    there = [part for part in parts if any(same_place(p.device, wanted) for p in part.parameters())]
    if others and (there or len(others) > 1):
        return [
            f"Parts of the pipeline are on {', '.join(others)}; they were left there, and only what runs on "
            f"{device.spec} is measured."
        ]
    if not there:
        device.place(pipe)
        left = others[0] if others else "the CPU"
        return [f"The pipeline was left on {left}, and was moved to {device.spec} for the scan."]
    if not device.wants_values:
        device.place(there)
    return []


def settled_call(
    pipe: Pipeline, args: tuple[object, ...], kwargs: dict[str, object], device: Device
) -> tuple[tuple[object, ...], dict[str, object], list[str]]:
    """`settle`, with the tensors among the call's arguments: they go along with a pipeline that is moved."""
    from diffprof.model.pipeline import offloaded

    notes = settle(pipe, device)
    if notes and not offloaded(pipe):
        held = args, kwargs
        args, kwargs = _on_device(args, device), _on_device(kwargs, device)
        if _differ(held, (args, kwargs)):
            notes.append(f"Tensors among its call's arguments were moved to {device.spec} with it.")
    return args, kwargs, notes


def _on_device(value: Any, device: Device) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        return value.to(device.torch_device)
    if type(value) in (list, tuple):
        return type(value)(_on_device(each, device) for each in value)
    return {n: _on_device(v, device) for n, v in value.items()} if type(value) is dict else value


def _differ(one: object, other: object) -> bool:
    if type(one) in (list, tuple, dict):
        pairs = zip(*(v.values() if type(v) is dict else v for v in (one, other)), strict=True)
        return any(_differ(a, b) for a, b in pairs)
    return one is not other


def with_dtype(pipe: Pipeline, options: Options) -> None:
    """Give the pipeline the dtype that the options name, if they do.

    Raises UsageError for a baseline: what the user's own code sets up is left as it is.
    """
    if options.baseline:
        raise UsageError(
            "--baseline is for built-in architectures and checkpoints.",
            "In a file of your own, call set_default_attn_processor() on the pipeline's models.",
        )
    if options.dtype is not None:
        from diffprof.targets.construct import parse_dtype

        pipe.to(parse_dtype(options.dtype))
