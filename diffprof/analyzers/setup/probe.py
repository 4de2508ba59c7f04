"""How a pipeline and the process are set up, told from what the models have: types, attention, layout, hooks.

Nothing runs: the pipeline is looked at as it stands.
"""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Protocol

import torch
from torch import nn

from diffprof.analyzers.setup.attention_modules import (
    fusable,
    names_called,
    own_methods,
    replaces_processors,
)
from diffprof.analyzers.setup.changes import Costed
from diffprof.gpu.inductor_flags import FLAGS, INT8_FLAGS
from diffprof.model.analyzer import Run
from diffprof.model.pipeline import Pipeline, components, role, walked
from diffprof.model.recording import Change, Setup, SetupPart
from diffprof.targets.compiled import compiled_roots, compiler_settings, is_compiled
from diffprof.targets.load_arguments import LEFT_AS_IS, QUANTIZED_PACKAGES

ATTENTION_PACKAGES = ("flash_attn_interface", "flash_attn", "sageattention", "xformers")
"""Libraries that diffusers' attention dispatcher can use, the fastest first."""

FUSED_CALLS = frozenset({"scaled_dot_product_attention", "dispatch_attention_fn"})
UNFUSED_CALL = "get_attention_scores"
"""The method of diffusers' attention modules that returns the whole score matrix."""


class SimulatedRun(Run, Protocol):
    """A scan, with the operations of its watched call where that was simulated. changes: those to cost; None:
    all that a finding may ask for."""

    kernels: Any
    changes: Collection[Change] | None


def of_run(run: SimulatedRun) -> dict[str, object]:
    """Of a scan: with what the watched call would cost set up otherwise, where it was simulated."""
    run.progress.stage("looking at the set-up")
    pipe, kernels, timeline = run.call.pipe, run.kernels, run.sections.get("timeline")
    if kernels is None or timeline is None:
        return probe_setup(pipe)
    from diffprof.analyzers.setup.changes import costed

    roots, syncs = compiled_roots(pipe), run.sections.get("syncs") or ()
    card = run.call.card_steps
    return probe_setup(
        pipe, lambda parts: costed(kernels, timeline, pipe, parts, roots, syncs, card, run.changes)
    )


def probe_setup(
    pipe: Pipeline, costed: Callable[[Sequence[SetupPart]], Costed] | None = None
) -> dict[str, object]:
    """The section `setup` of a recording, and what is not in it. costed: told the parts, says what the same
    call would cost set up otherwise."""
    models = {name: part for name, part in components(pipe).items() if isinstance(part, nn.Module)}
    projections, replaced = fusable(pipe), replaces_processors(pipe)
    parts = tuple(
        _part(name, part, projections.get(name), replaced=replaced) for name, part in models.items()
    )
    otherwise = costed(parts) if costed is not None else Costed()
    setup = Setup(
        parts=parts,
        matmul_tf32=torch.backends.cuda.matmul.fp32_precision == "tf32",
        conv_tf32=torch.backends.cudnn.conv.fp32_precision == "tf32",
        inductor=_inductor_flags([models[part.name] for part in parts if part.compiled]),
        progress_bar=_progress_bar(pipe),
        fuses_qkv=callable(getattr(pipe, "fuse_qkv_projections", None)),
        fuses_lora=callable(getattr(pipe, "fuse_lora", None)),
        upcasts_vae=_upcasts(pipe),
        adapters=_adapters([models[part.name] for part in parts if part.adapted]),
        offload=_offload(pipe, parts),
        guided=_guided(pipe),
        packages=tuple(name for name in ATTENTION_PACKAGES if importlib.util.find_spec(name) is not None),
        costs=otherwise.costs,
        alternatives=otherwise.alternatives,
    )
    return {"setup": setup, "unseen": otherwise.unseen}


def _part(name: str, part: nn.Module, apart: Sequence[str] | None, *, replaced: bool) -> SetupPart:
    """apart: attention modules whose projections can be fused. replaced: whether other processors than those
    of now run in the call."""
    modules = dict(walked(part))
    model = getattr(part, "_orig_mod", part)
    # `model.to(memory_format=torch.channels_last)` raises where a weight has five dimensions.
    flat = all(
        p.dim() < 5 for module in modules.values() for p in module._parameters.values() if p is not None
    )
    convs = [m for m in modules.values() if flat and isinstance(m, nn.Conv2d)]
    attention = [m for m in modules.values() if _has_processor(m)]
    config = getattr(model, "config", None)
    return SetupPart(
        name=name,
        role=role(name, model),
        dtypes=_bytes_by_type(modules.values()),
        convs=len(convs),
        convs_channels_last=sum(_is_channels_last(conv.weight) for conv in convs),
        linears=sum(isinstance(m, nn.Linear) for m in modules.values()),
        quantized=sum(map(_is_quantized, modules.values())),
        left_as_is=any(LEFT_AS_IS in vars(m) for m in (model, *modules.values())),
        attention=dict(Counter(type(m.processor).__name__ for m in attention)),
        unfused=_unfused(attention, replaced=replaced),
        dispatched=any(hasattr(m.processor, "_attention_backend") for m in attention),
        backend=_backend(attention),
        fusable=None if apart is None else len(apart),
        adapted=sum(_is_adapted(m) and not _is_merged(m) for m in modules.values()),
        tiling=_switch(model, "use_tiling"),
        slicing=_switch(model, "use_slicing"),
        force_upcast=bool(getattr(config, "force_upcast", False)),
        asks_upcast=_asks_upcast(config),
        compiled=_compiled(part, modules),
        repeated=_repeated(model, modules),
        hooks=tuple(dict.fromkeys(_hooks(modules.values()))),
        cacheable=callable(getattr(model, "enable_cache", None)),
        cache=type(cache).__name__ if (cache := getattr(model, "_cache_config", None)) else None,
    )


def _asks_upcast(config: object) -> bool:
    """diffusers notes in a configuration which of its values are defaults of the class."""
    defaults = getattr(config, "_use_default_values", ())
    return bool(getattr(config, "force_upcast", False)) and "force_upcast" not in defaults


def _bytes_by_type(modules: Iterable[nn.Module]) -> dict[str, int]:
    parameters = {id(p): p for module in modules for p in module._parameters.values() if p is not None}
    found: Counter[torch.dtype] = Counter()
    for parameter in parameters.values():
        found[parameter.dtype] += parameter.numel() * parameter.element_size()
    return {str(dtype).removeprefix("torch."): size for dtype, size in found.items()}


def _held(module: nn.Module, name: str) -> object:
    """An attribute as the module holds it, or its class; None without torch's search for what is missing."""
    own = vars(module)
    if name in own:
        return own[name]
    found = own["_modules"].get(name)
    return found if found is not None else getattr(type(module), name, None)


def _is_channels_last(weight: torch.Tensor) -> bool:
    """Whether channels are innermost, for weights in which that makes a difference."""
    if weight.dim() != 4 or weight.shape[1] == 1 or weight.shape[2:].numel() == 1:
        return False
    return weight.is_contiguous(memory_format=torch.channels_last)


def _is_quantized(module: nn.Module) -> bool:
    kinds = (type(module), *map(type, module._parameters.values()))
    return any(_is_of_quantized_package(kind) for kind in kinds)


@cache
def _is_of_quantized_package(kind: type) -> bool:
    return kind.__module__.startswith(QUANTIZED_PACKAGES)


# --- attention -----------------------------------------------------------------------------------------


def _has_processor(module: nn.Module) -> bool:
    return callable(_held(module, "processor")) and callable(_held(module, "set_processor"))


def _unfused(attention: Sequence[torch.nn.Module], *, replaced: bool) -> dict[str, str]:
    found: dict[str, str] = {}
    for cls in dict.fromkeys(type(module.processor) for module in attention):
        called = names_called(cls.__call__)
        if UNFUSED_CALL in called and not called & FUSED_CALLS:
            found.setdefault(cls.__name__, "" if replaced else _fused_counterpart(cls))
    return found


def _fused_counterpart(cls: type) -> str:
    """The class of the same module that does the same with scaled_dot_product_attention: `X` -> `X2_0`."""
    plain = cls.__name__.removeprefix("Sliced")
    module = sys.modules.get(cls.__module__)
    for name in (f"{cls.__name__}2_0", f"{plain}2_0"):
        if isinstance(getattr(module, name, None), type):
            return f"{cls.__module__}.{name}"
    return ""


def _backend(attention: Sequence[torch.nn.Module]) -> str | None:
    for module in attention:
        chosen = getattr(module.processor, "_attention_backend", None)
        if chosen is not None:
            return str(getattr(chosen, "value", chosen))
    return None


# --- LoRA, compilation, offloading -----------------------------------------------------------------------


def _is_adapted(module: nn.Module) -> bool:
    """A layer that wraps another one and adds adapters to it (peft's tuner layers)."""
    return isinstance(module._modules.get("base_layer"), nn.Module)


def _is_merged(module: nn.Module) -> bool:
    return bool(getattr(module, "merged", False))


def _adapters(models: Sequence[nn.Module]) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for part in models:
        for module in part.modules():
            if _is_adapted(module) and not _is_merged(module):
                active = getattr(module, "active_adapters", ())
                names.update(dict.fromkeys(map(str, [active] if isinstance(active, str) else active)))
    return tuple(names)


def _compiled(part: nn.Module, modules: dict[str, nn.Module]) -> str | None:
    compiled = [module for module in modules.values() if is_compiled(module)]
    if part in compiled:
        return "whole"
    return "regional" if compiled else None


def _repeated(model: nn.Module, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    named = getattr(model, "_repeated_blocks", None) or ()
    present = {type(module).__name__ for module in modules.values()}
    return tuple(name for name in named if name in present)


def _hooks(modules: Iterable[nn.Module]) -> Iterator[str]:
    for module in modules:
        hook = _held(module, "_hf_hook")
        for each in getattr(hook, "hooks", [hook]) if hook is not None else ():
            if hasattr(each, "prev_module_hook"):
                yield "model"
            elif getattr(each, "offload", False):
                yield "sequential"
        registry = _held(module, "_diffusers_hook")
        if registry is not None and any(
            "group_offloading" in name for name in getattr(registry, "hooks", ())
        ):
            yield "group"


def _offload(pipe: Pipeline, parts: Sequence[SetupPart]) -> str | None:
    for part in parts:
        if part.hooks:
            return part.hooks[0]
    return None


# --- switches --------------------------------------------------------------------------------------------


def _switch(model: nn.Module, name: str) -> bool | None:
    value = getattr(model, name, None)
    return value if isinstance(value, bool) else None


def _progress_bar(pipe: Pipeline) -> bool | None:
    if not callable(getattr(pipe, "set_progress_bar_config", None)):
        return None
    if not hasattr(pipe, "blocks") and not any(
        "progress_bar" in names_called(method) for method in own_methods(pipe).values()
    ):
        return None
    config = getattr(pipe, "_progress_bar_config", None)
    return not (isinstance(config, dict) and config.get("disable"))


def _upcasts(pipe: Pipeline) -> bool:
    """What decodes looks at `force_upcast`: that there is an `upcast_vae`, maybe inherited, says little."""
    return any(
        "force_upcast" in names_called(method)
        for method in own_methods(pipe).values()
        if method.__name__ == "__call__" or "decode" in method.__name__
    )


def _guided(pipe: Pipeline) -> bool | None:
    """As the pipeline itself said in its last call."""
    try:
        value = pipe.do_classifier_free_guidance
    except (AttributeError, TypeError):
        return None
    return value if isinstance(value, bool) else None


def _inductor_flags(models: Sequence[nn.Module]) -> dict[str, bool]:
    config = compiler_settings(models)
    return {name: bool(config[name]) for name in (*FLAGS, *INT8_FLAGS) if name in config}
