"""The weights of a pipeline's models, in the groups in which offloading moves them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator

import torch

from diffprof.devices.simulated.held import pieces
from diffprof.gpu.offload import Group, ModelWeights
from diffprof.gpu.timeline_builder import ModuleStack
from diffprof.model.pipeline import Pipeline, components, role

LEAVES = (
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    torch.nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d,
    torch.nn.Linear,
    torch.nn.Embedding,
)
"""Layers that leaf-level offloading moves as one (diffusers/hooks/_common.py)."""


def parts_of(
    pipe: Pipeline, calls: ModuleStack | None = None, launching: Collection[str | None] = ()
) -> tuple[ModelWeights, ...]:
    """The models of a pipeline. calls: of its modules, that were followed. launching: modules that launched
    operations."""
    calls = calls or ModuleStack({})
    return tuple(
        _part(name, role(name, model), model, calls, launching)
        for name, model in components(pipe).items()
        if isinstance(model, torch.nn.Module)
    )


def _part(
    name: str,
    what: str,
    model: torch.nn.Module,
    calls: ModuleStack,
    launching: Collection[str | None],
) -> ModelWeights:
    linears = {
        f"{name}.{path}": (_bytes(layer.weight), layer.weight.numel())
        for path, layer in model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    if any(nbytes < 2 * elements for nbytes, elements in linears.values()):
        linears = {}  # packed already, or in float8, which no library packs again
    left = [p for p in linears if p not in launching and p.rpartition(".")[0] in launching]
    linears = {path: weight for path, weight in linears.items() if path not in left}
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    wide = frozenset(path for path in linears if not kept.isdisjoint(path.split(".")[1:]))
    asked = tuple(path for path in _asked_for_their_type(model) if f"{name}.{path}" in linears.keys() - wide)
    called = name in calls.outermost
    bypassed = not called and any(path.startswith(f"{name}.") for path in calls.outermost)
    groups = tuple(_leaves(name, model)), tuple(_blocks(name, model))
    in_groups = getattr(model, "_supports_group_offloading", True)
    # Diffusers refuses those that take weights of layers that they do not call, as HunyuanDiT's pooling.
    in_layers = in_groups and not any(map(_computes_weights_ahead, model.modules()))
    return ModelWeights(
        name,
        what,
        *groups,
        linears,
        called,
        bypassed,
        in_groups,
        in_layers,
        tuple(path.removeprefix(f"{name}.") for path in left),
        len({calls.times[group.path] for group in groups[0] if calls.times[group.path]}) <= 1,
        any(path in calls.by_name for path in linears),
        wide.union(f"{name}.{path}" for path in asked),
        asked,
        any(model.get_submodule(p.removeprefix(f"{name}.")).weight.dtype == torch.float16 for p in linears),
    )


def _asked_for_their_type(model: torch.nn.Module) -> Iterator[str]:
    """Layers to the type of whose weights a module brings their input, as IP-Adapter's projection does."""
    for path, module in model.named_modules():
        for name in _types_asked_for(type(module).forward):
            yield f"{path}.{name}" if path else name


@functools.cache
def _types_asked_for(forward: Callable[..., object]) -> tuple[str, ...]:
    """Names of layers, `self.layer.weight.dtype` in the source of a module's method."""
    try:
        source = inspect.getsource(forward)
    except (OSError, TypeError):
        return ()
    return tuple(dict.fromkeys(re.findall(r"\bself\.(\w+)\.weight\.dtype\b", source)))


def _computes_weights_ahead(module: torch.nn.Module) -> bool:
    """Whether a hook makes a weight of others before the module's `forward`, as `torch.nn.utils.weight_norm`
    and `spectral_norm`. accelerate brings weights in a wrapped `forward`, after hooks have run: what this one
    computes is made of none, and the layer reads memory that nobody wrote, without an error."""
    made = any(isinstance(each, torch.Tensor) for each in vars(module).values())
    return made and bool(module._parameters) and bool(module._forward_pre_hooks)


def _bytes(tensor: torch.Tensor) -> int:
    return sum(piece.numel() * piece.element_size() for piece in pieces(tensor))


def _sizes(tensors: Iterable[torch.Tensor]) -> tuple[int, ...]:
    """Bytes of each, those that occur again left out."""
    return tuple(_bytes(each) for each in {id(each): each for each in tensors}.values() if each.numel())


def _leaves(name: str, model: torch.nn.Module) -> Iterator[Group]:
    """As `_apply_group_offloading_leaf_level` groups them: layers, and what has weights of its own. What
    several share is the last one's."""
    groups: dict[str, list[torch.Tensor]] = {}
    owner: dict[int, str] = {}
    taken: set[torch.nn.Module] = set()
    for path, module in model.named_modules():
        if module in taken:
            continue
        layer = isinstance(module, LEAVES)
        groups[path] = [*module.parameters(layer), *module.buffers(layer)]
        owner.update((id(each), path) for each in groups[path])
        if layer:
            taken.update(module.modules())
    for path, tensors in groups.items():
        sizes = tuple(_bytes(each) for each in tensors if each.numel() and owner[id(each)] == path)
        if sizes:
            yield Group(f"{name}.{path}" if path else name, sizes)


def _blocks(name: str, model: torch.nn.Module) -> Iterator[Group]:
    """As `_apply_group_offloading_block_level` groups them: the entries of lists, and the rest."""
    named = set(getattr(model, "_group_offload_block_modules", None) or ())
    rest = [*model.parameters(recurse=False), *model.buffers(recurse=False)]
    for child, module in model.named_children():
        path = f"{name}.{child}"
        if child in named:
            yield from _blocks(path, module)
        elif isinstance(module, torch.nn.ModuleList | torch.nn.Sequential):
            for number, block in enumerate(module):
                yield Group(f"{path}.{number}", _sizes((*block.parameters(), *block.buffers())))
        else:
            rest += [*module.parameters(), *module.buffers()]
    if rest:
        yield Group(name, _sizes(rest), prefetched=False, root=True)
