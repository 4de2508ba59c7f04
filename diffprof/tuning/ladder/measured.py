"""Rungs of the ladder on a real device: the pipeline is changed as the recipe says, then timed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from msgspec.structs import replace as changed

from diffprof.analyzers.kernels.timing import COMPILED_WARMUPS, clean_passes
from diffprof.analyzers.quantization.published import published_list
from diffprof.gpu.inductor_flags import FLAGS, INT8_FLAGS
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.model.ladder import RungResult
from diffprof.model.pipeline import Pipeline, with_role
from diffprof.model.recording import Grade
from diffprof.targets.baseline import Inapplicable, Rung, prepare
from diffprof.tuning.ladder import GIB

if TYPE_CHECKING:
    from diffprof.devices import Device
    from diffprof.targets import Options, Target
    from diffprof.targets.pipeline_call import PipelineCall


def measured_rung(target: Target, device: Device, options: Options, rung: Rung) -> RungResult:
    """Build the target as the rung wants it, warm it up, time it. A rung that fails says why, and nothing of
    it stays on the device: the next one begins as the first did."""
    result = RungResult(name=rung.name, title=rung.title, grade=Grade.MEASURED)

    def play(call: PipelineCall) -> RungResult:
        with ExitStack() as undo:
            prepare(call.pipe, rung)
            if rung.int8:
                quantize(call.pipe)
            if rung.compiled:
                undo.enter_context(compiled(call.pipe, int8=rung.int8))
            return _timed(call, device, rung, result)

    wanted = replace(options, dtype=rung.dtype)
    _collect(device)
    try:
        with device.active(), torch.no_grad():
            return target.run(play, device, wanted)
    except Inapplicable as reason:
        return changed(result, skipped=str(reason))
    except UsageError:
        raise  # of the request, and so of every rung
    except Exception as error:
        return changed(result, failed=_why(error))
    finally:
        _collect(device)


def _timed(call: PipelineCall, device: Device, rung: Rung, result: RungResult) -> RungResult:
    """The peak is that of the timed calls: what tuning kernels takes while it warms up is left out."""
    allocator = device.allocator

    def warm() -> None:
        device.synchronize()
        if allocator is not None:
            allocator.collect()
            allocator.reset_peak()

    timing = clean_passes(
        call.run,
        device.synchronize,
        warmups=COMPILED_WARMUPS if rung.compiled else 1,
        warm=warm,
        clock=device.clock,
    )
    peak = None if allocator is None else allocator.peak_bytes() / GIB
    return changed(result, seconds=timing.median, memory_gb=peak)


def _collect(device: Device) -> None:
    if device.allocator is not None:
        device.allocator.collect()


def _why(error: BaseException) -> str:
    """An exception in one line; of an error of ours, what was behind it."""
    cause = error.__cause__ if isinstance(error, DiffprofError) and error.__cause__ else error
    if isinstance(cause, torch.OutOfMemoryError | MemoryError):
        return "out of memory"
    text = (str(cause).strip().splitlines() or [""])[0]
    return f"{type(cause).__name__}: {text}"[:200].rstrip(": ")


def quantize(pipe: Pipeline) -> None:
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
def compiled(pipe: Pipeline, *, int8: bool) -> Iterator[None]:
    """Denoiser and VAE decoder under `torch.compile`, with the recipe's flags while open."""
    import torch._inductor.config as inductor

    flags = {**FLAGS, **(INT8_FLAGS if int8 else {})}
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
