"""The order in which a pipeline may be changed: fuse LoRA, fuse QKV, swap convolutions, quantize, compile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from diffprof.analyzers.quantization.layers import weights_are_quantized
from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline, components

STEPS = ("fuse-lora", "fuse-qkv", "swap-convs", "quantize", "compile")
"""The known order."""

WHY = {
    ("fuse-lora", "quantize"): "a LoRA can't be merged into weights that are stored quantized",
    ("fuse-lora", "compile"): "merging changes weights that the compiled code may hold folded or cached",
    (
        "fuse-qkv",
        "quantize",
    ): "quantized weights can't be concatenated (aten.cat is not implemented for them)",
    ("fuse-qkv", "compile"): "fusing replaces modules that are compiled already, which compiles them again",
    ("swap-convs", "quantize"): "a convolution that becomes a linear after quantizing stays unquantized",
    (
        "swap-convs",
        "compile",
    ): "swapping replaces modules that are compiled already, which compiles them again",
    ("quantize", "compile"): "quantizing replaces weights that compiled code was specialized on, "
    "which compiles it again",
}
"""(step, later step that is done already) -> why the step can't follow it."""


def done(pipe: Pipeline, component: str | None = None) -> dict[str, str]:
    """Step -> the first module in which it shows, for the steps taken. component: look only there."""
    found: dict[str, str] = {}
    for name, part in _parts(pipe, component):
        for inner, module in part.named_modules():
            where = f"{name}.{inner}" if inner else name
            for step in _steps_in(module):
                found.setdefault(step, where)
    return {step: found[step] for step in STEPS if step in found}


def unfused_adapters(pipe: Pipeline, component: str | None = None) -> str | None:
    """The first layer with a LoRA adapter that is not merged into it, or None."""
    return _unfused(_parts(pipe, component))


def _unfused(parts: Iterable[tuple[str, nn.Module]]) -> str | None:
    for name, part in parts:
        for inner, module in part.named_modules():
            if _is_adapted(module) and not getattr(module, "merged", False):
                return f"{name}.{inner}"
    return None


def check_order(pipe: Pipeline, step: str, component: str | None = None) -> None:
    """Whether a step may be taken now. component: the only one that it changes.

    Raises UsageError with the reason where a later step of the order was taken already, and ValueError for
    an unknown step.
    """
    taken = done(pipe, component)
    for later in STEPS[STEPS.index(step) + 1 :]:
        if later in taken:
            raise UsageError(
                f"{step} comes too late: {taken[later]} has gone through {later} already, and "
                f"{WHY[step, later]}.",
                f"Build the pipeline again and keep the order: {', '.join(STEPS)}.",
            )
    if step == "quantize" and "quantize" in taken:
        raise UsageError(
            f"{taken['quantize']} is quantized already; quantizing twice would measure or store the wrong "
            "thing.",
            "Build the pipeline again without quantization, and choose from there.",
        )


def disorder(pipe: Pipeline) -> Iterator[str]:
    """Signs that a pipeline was changed in another order, each in a sentence."""
    for name, part in _parts(pipe, None):
        quantized = [inner for inner, module in part.named_modules() if weights_are_quantized(module)]
        if not quantized:
            continue
        adapters = [each for each in quantized if _within_adapter(part, each)]
        if adapters:
            yield (
                f"{name}.{adapters[0]} is part of a LoRA adapter and is quantized ({len(adapters)} such): "
                "fuse the LoRA before quantizing, or leave 'lora_' modules out of the filter"
            )
        where = _unfused([(name, part)])
        if where:
            yield (
                f"{where} has a LoRA adapter on quantized weights: it can't be fused any more; "
                "fuse the LoRA first, then quantize"
            )


def _steps_in(module: nn.Module) -> Iterator[str]:
    if _is_adapted(module) and getattr(module, "merged", False):
        yield "fuse-lora"
    if getattr(module, "fused_projections", False):
        yield "fuse-qkv"
    if weights_are_quantized(module):
        yield "quantize"
    if getattr(module, "_compiled_call_impl", None) is not None or hasattr(module, "_orig_mod"):
        yield "compile"


def _is_adapted(module: nn.Module) -> bool:
    """A layer that wraps another one and adds adapters to it (peft's tuner layers)."""
    return isinstance(module._modules.get("base_layer"), nn.Module)


def adapter_names(part: nn.Module) -> set[str]:
    """Names of all modules that belong to adapters: what an adapted layer holds besides its base layer."""
    found: set[str] = set()
    for name, module in part.named_modules():
        if not _is_adapted(module):
            continue
        prefix = f"{name}." if name else ""
        for child, held in module._modules.items():
            if child != "base_layer" and held is not None:
                found.update(f"{prefix}{child}.{inner}".rstrip(".") for inner, _ in held.named_modules())
    return found


def _within_adapter(part: nn.Module, name: str) -> bool:
    return name in adapter_names(part)


def _parts(pipe: Pipeline, component: str | None) -> Iterator[tuple[str, nn.Module]]:
    for name, part in components(pipe).items():
        if isinstance(part, nn.Module) and component in (None, name):
            yield name, part
