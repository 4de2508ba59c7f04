"""Fixes of memory: the VAE whole or in tiles, weights kept on the device, the layout of convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.analyzers.setup.precision import NO_SETUP, ROUNDING_TOLERANCE, place
from diffprof.model.finding import Finding
from diffprof.model.fix import Code, Fix, Recipe, Safety, Skipped, Stage, Write
from diffprof.model.recording import Change, Recording, SetupPart


def switched(method: str, attribute: str, wanted: bool) -> Write:
    """A recipe's code that calls a method on every model whose switch stands the other way."""

    def code(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
        if recording.setup is None:
            return NO_SETUP
        parts = [part for part in recording.setup.parts if getattr(part, attribute) is (not wanted)]
        if not parts:
            return Skipped(f"no model has {attribute} {'off' if wanted else 'on'}")
        return Code(optimize="\n".join(f"{place(part.name)}.{method}()" for part in parts))

    return code


def channels_last(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Denoisers and VAEs with convolutions, channels innermost."""
    if recording.setup is None:
        return NO_SETUP
    lines = in_channels_last(recording.setup.parts)
    if not lines:
        return Skipped("no model with two-dimensional convolutions is in PyTorch's default order")
    return Code(imports=("import torch",), optimize="\n".join(lines))


def in_channels_last(parts: Sequence[SetupPart]) -> list[str]:
    """Statements that put the denoisers and VAEs among these into that order, where they are not."""
    chosen = [part for part in parts if _worth_ordering(part)]
    return [f"{place(part.name)}.to(memory_format=torch.channels_last)" for part in chosen]


def _worth_ordering(part: SetupPart) -> bool:
    return part.role in ("denoiser", "vae") and part.convs > 0 and not part.convs_channels_last


_RESIDENT = '''\
_OFFLOADING = ("group_offloading", "layer_execution_tracker", "lazy_prefetch_group_offloading")


def _on_device(pipe):
    """The pipeline without the hooks that move its weights, on the device on which it computes."""
    device = pipe._execution_device
    pipe.remove_all_hooks()
    for model in pipe.components.values():
        for module in model.modules() if isinstance(model, torch.nn.Module) else ():
            registry = getattr(module, "_diffusers_hook", None)
            for name in list(registry.hooks) if registry is not None else ():
                if name in _OFFLOADING:
                    registry.remove_hook(name, recurse=False)
    pipe._offload_device = None
    return pipe.to(device)
'''


def replace_offload(recording: Recording, findings: Sequence[Finding]) -> Code | Skipped:
    """Weights stay on the device."""
    from diffprof.analyzers.setup.judging import AMPLE
    from diffprof.judge.fitting import needed_on_device

    setup, room = recording.setup, recording.device.memory_bytes
    if setup is None:
        return NO_SETUP
    if setup.offload is None:
        return Skipped("nothing is offloaded now")
    _, need = needed_on_device(setup, recording.memory)
    if room is not None and need > AMPLE * room:
        return Skipped(
            f"it takes about {need / 2**30:,.1f} GiB, the device has {room / 2**30:,.1f} GiB: use "
            "enable_group_offload(use_stream=True), which copies while it computes"
        )
    return Code(imports=("import torch",), definitions=_RESIDENT, optimize="pipe = _on_device(pipe)")


RECIPES = (
    Recipe(
        Fix(
            "replace-offload",
            "Keep the weights on the device",
            Safety.EXACT,
            Stage.PLACEMENT,
            why="The same weights in another place: the hooks that move them are taken off, the pipeline is "
            "moved once.",
        ),
        replace_offload,
    ),
    Recipe(
        Fix(
            "vae-untiled",
            "Decode the whole picture at once",
            Safety.LOSSY,
            Stage.PLACEMENT,
            conflicts={"vae-tiled": "tiling is on or off"},
            why="Without tiles there is nothing to blend: the picture is what the VAE makes of the whole "
            "latents. Takes more memory.",
        ),
        switched("disable_tiling", "tiling", False),
    ),
    Recipe(
        Fix(
            "vae-unsliced",
            "Decode the batch at once",
            Safety.NUMERIC,
            Stage.PLACEMENT,
            tolerance=ROUNDING_TOLERANCE,
            why="Pictures of a batch don't depend on each other; kernels for another batch may round "
            "otherwise.",
        ),
        switched("disable_slicing", "slicing", False),
    ),
    Recipe(
        Fix(
            "vae-tiled",
            "Decode in tiles",
            Safety.LOSSY,
            Stage.PLACEMENT,
            goals=("memory", "latency"),
            why="Tiles are decoded apart and blended where they overlap, so that memory no longer grows with "
            "the picture.",
        ),
        switched("enable_tiling", "tiling", True),
    ),
    Recipe(
        Fix(
            "channels-last",
            "Keep channels innermost in memory",
            Safety.NUMERIC,
            Stage.LAYOUT,
            tolerance=ROUNDING_TOLERANCE,
            why="The same values in another order; convolution kernels for that order may round otherwise.",
        ),
        channels_last,
        change=Change.CHANNELS_LAST,
    ),
)
