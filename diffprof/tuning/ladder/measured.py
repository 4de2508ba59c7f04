"""Rungs of the ladder on a real device: the pipeline is changed as the recipe says, then timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from msgspec.structs import replace as changed

from diffprof.analyzers.kernels.timing import clean_passes, synchronizer
from diffprof.analyzers.quantization.published import published_list
from diffprof.model.ladder import RungResult
from diffprof.model.recording import Grade
from diffprof.targets.baseline import Inapplicable, Rung, prepare
from diffprof.targets.pipeline import with_role
from diffprof.tuning.ladder import GIB

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options, Target
    from diffprof.targets.pipeline_call import Scene

COMPILED_WARMUPS = 3
"""As the published runs: the first call compiles, the next ones record CUDA graphs."""

INDUCTOR_FLAGS = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "epilogue_fusion": False,
}
"""Of the published recipe."""

INT8_FLAGS = {"force_fuse_int_mm_with_mul": True}


def measured_rung(target: Target, device: Device, options: Options, rung: Rung) -> RungResult:
    """Build the target as the rung wants it, warm it up, time it."""
    result = RungResult(name=rung.name, title=rung.title, grade=Grade.MEASURED)

    def play(scene: Scene) -> RungResult:
        place = device.torch_device
        with ExitStack() as undo:
            try:
                prepare(scene.pipe, rung)
                if rung.int8:
                    quantize(scene.pipe)
            except Inapplicable as reason:
                return changed(result, skipped=str(reason))
            if rung.compiled:
                undo.enter_context(compiled(scene.pipe, int8=rung.int8))
            if place.type == "cuda":
                torch.cuda.reset_peak_memory_stats(place)
            timing = clean_passes(
                scene.call, synchronizer(place), warmups=COMPILED_WARMUPS if rung.compiled else 1
            )
            peak = torch.cuda.max_memory_allocated(place) / GIB if place.type == "cuda" else None
            return changed(result, seconds=timing.median, memory_gb=peak)

    with device.active(), torch.no_grad():
        return target.run(play, device, replace(options, dtype=rung.dtype))


def quantize(pipe: Any) -> None:
    """Dynamic INT8 for the linears of the published list, 1x1 convolutions among them."""
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
        swap_conv2d_1x1_to_linear,
    )

    recipe = published_list()

    def is_small_conv(module: torch.nn.Module, name: str) -> bool:
        return (
            isinstance(module, torch.nn.Conv2d)
            and module.kernel_size == (1, 1)
            and recipe.quantizes(module.in_channels, module.out_channels, "conv1x1")
        )

    def gains(module: torch.nn.Module, name: str) -> bool:
        # LoRA's own linears are too small, and torchao's default filter would take them.
        return (
            isinstance(module, torch.nn.Linear)
            and "lora_" not in name
            and recipe.quantizes(module.in_features, module.out_features)
        )

    for role in ("denoiser", "vae"):
        for module in with_role(pipe, role).values():
            swap_conv2d_1x1_to_linear(module, is_small_conv)
            quantize_(module, Int8DynamicActivationInt8WeightConfig(set_inductor_config=False), gains)


@contextmanager
def compiled(pipe: Any, *, int8: bool) -> Iterator[None]:
    """Denoiser and VAE decoder under `torch.compile`, with the recipe's flags while open."""
    import torch._inductor.config as inductor

    flags = {**INDUCTOR_FLAGS, **(INT8_FLAGS if int8 else {})}
    known = {name: value for name, value in flags.items() if hasattr(inductor, name)}
    with inductor.patch(known):
        for module in with_role(pipe, "denoiser").values():
            module.compile(mode="max-autotune", fullgraph=True)
        for module in with_role(pipe, "vae").values():
            module.decode = torch.compile(module.decode, mode="max-autotune", fullgraph=True)
        try:
            yield
        finally:
            torch._dynamo.reset()
