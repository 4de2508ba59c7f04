"""Attention modules as their models and the pipeline treat them: whose projections can be fused, and whether
the pipeline replaces processors itself while it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType

from torch import nn

from diffprof.model.pipeline import Pipeline, components, is_pipeline, walked


def fusable(pipe: Pipeline) -> dict[str, tuple[str, ...]]:
    """For each model that has a switch for it, the paths of its attention modules whose projections are apart
    and become one product by it. None are where the pipeline replaces processors while it is called: those do
    not know of the fused projections."""
    if replaces_processors(pipe):
        return {}
    models = {name: part for name, part in components(pipe).items() if isinstance(part, nn.Module)}
    found = {name: _fusable(getattr(part, "_orig_mod", part)) for name, part in models.items()}
    return {name: paths for name, paths in found.items() if paths is not None}


def _fusable(model: nn.Module) -> tuple[str, ...] | None:
    fuse = getattr(type(model), "fuse_qkv_projections", None)
    if fuse is None:
        return None
    asks = "_supports_qkv_fusion" in names_called(fuse)
    able = {
        path: module
        for path, module in walked(model)
        if callable(getattr(module, "fuse_projections", None))
        and getattr(module, "_supports_qkv_fusion", not asks)
    }
    if not able:
        return None
    processors = [getattr(module, "processor", None) for module in able.values()]
    if any(_is_lost_by_fusing(each, fuse) for each in processors) or not all(
        "to_q" in m._modules for m in able.values()
    ):
        return ()
    return tuple(path for path, module in able.items() if not getattr(module, "fused_projections", False))


def _is_lost_by_fusing(processor: object, fuse: Callable[..., object]) -> bool:
    """Fusing puts a plain processor of the model's library in its place, or the processor has to know of it:
    not instead of one with weights of its own, as IP-Adapters have, nor of a user's, and diffusers refuses it
    for `Added` ones (unet_2d_condition.py, `fuse_qkv_projections`). fuse: the model's method."""
    kind = type(processor)
    elsewhere = processor is not None and _package(kind.__module__) != _package(fuse.__module__)
    return elsewhere or isinstance(processor, nn.Module) or "Added" in kind.__name__


def _package(module: str) -> str:
    return module.partition(".")[0]


def left_out_by_fusing(pipe: Pipeline) -> str | None:
    """Why projections can't be fused now: the fused weights know nothing of an adapter beside them."""
    for name, paths in fusable(pipe).items():
        modules = dict(walked(components(pipe)[name]))
        for path in paths:
            beside = modules[path]._modules["to_q"]
            if isinstance(getattr(beside, "base_layer", None), nn.Module) and not getattr(
                beside, "merged", False
            ):
                return f"{name} computes an adapter beside its projections, which fused ones would leave out"
    return None


def replaces_processors(pipe: Pipeline) -> bool:
    """Whether the pipeline, or one that it holds, sets attention processors while it is called: those of its
    models are not what runs then."""
    if any(is_pipeline(each) and replaces_processors(each) for each in vars(pipe).values()):
        return True
    methods = own_methods(pipe)
    left, seen = ["__call__"], set[str]()
    while left:
        name = left.pop()
        if name in seen or name not in methods:
            continue
        seen.add(name)
        called = names_called(methods[name])
        if "set_attn_processor" in called:
            return True
        left += called & methods.keys()
    return False


def own_methods(pipe: Pipeline) -> Mapping[str, FunctionType]:
    """The methods that this pipeline runs, by name: overridden ones are left out."""
    found = {name: value for kind in reversed(type(pipe).__mro__) for name, value in vars(kind).items()}
    methods = {n: inspect.unwrap(value) for n, value in found.items() if isinstance(value, FunctionType)}
    return {name: method for name, method in methods.items() if isinstance(method, FunctionType)}


def names_called(function: Callable[..., object]) -> set[str]:
    """The names that a function's code has: of globals, attributes and methods."""
    code = getattr(function, "__code__", None)
    return set(_names(code)) if isinstance(code, CodeType) else set()


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
