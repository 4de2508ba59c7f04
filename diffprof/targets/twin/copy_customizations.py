"""What a model has beyond its configuration, put on its twin: adapters and other modules that were put in
later, processors, fused projections, switches, type, layout."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from diffprof.devices.simulated import is_known
from diffprof.targets.twin.shrinking import WIDTHS, NoTwin

_FEATURES = {
    *("in_features", "out_features", "in_channels", "out_channels", "num_channels", "num_features"),
    *("normalized_shape", "embedding_dim", *WIDTHS),
}
"""Attributes of modules that count features."""

_ADAPTED = ("peft_config", "_hf_peft_config_loaded")
"""Attributes by which diffusers and transformers know that a model has adapters."""


def dress(twin: torch.nn.Module, original: torch.nn.Module, factor: int) -> None:
    """Give the twin what was done to the original after it was made.

    Raises NoTwin for weights that can't be made again, such as quantized ones.
    """
    widths = Widths(twin, original, factor)
    theirs = dict(original.named_modules())
    for name, module in twin.named_modules():
        other = theirs.get(name)
        if getattr(other, "fused_projections", False) and callable(getattr(module, "fuse_projections", None)):
            module.fuse_projections()
    # Of a text encoder the twin has the first layers only.
    _graft(twin, original, widths, longer=not hasattr(getattr(original, "config", None), "to_dict"))
    mine = dict(twin.named_modules())
    for name, other in theirs.items():
        processor = vars(other).get("processor")
        if name in mine and processor is not None:
            mine[name].processor = copy.copy(processor)
    for name in _ADAPTED:
        if name in vars(original):
            setattr(twin, name, copy.copy(vars(original)[name]))
    _configure(twin, original)
    dtypes = {p.dtype for p in original.parameters() if p.is_floating_point()}
    if any(dtype.itemsize < 2 for dtype in dtypes):
        raise NoTwin(f"hooks widen weights of {type(original).__name__} that it keeps in eight bits")
    if len(dtypes) == 1:
        twin.to(dtypes.pop())
    else:
        _give_types(twin, original)
    if any(_channels_last(p) for p in original.parameters()):
        twin.to(memory_format=torch.channels_last)


def _configure(twin: torch.nn.Module, original: torch.nn.Module) -> None:
    """Entries of the configuration that were set on it later, as attributes alone."""
    config: object = getattr(original, "config", None)
    if isinstance(config, Mapping):
        for key, value in vars(config).items():
            if not key.startswith("_") and value != config.get(key):
                setattr(twin.config, key, value)


def _give_types(twin: torch.nn.Module, original: torch.nn.Module) -> None:
    """Of a model that keeps some of its weights in another type."""
    types = {name: weight.dtype for name, weight in original.named_parameters()}
    for name, weight in twin.named_parameters():
        if weight.is_floating_point() and name in types:
            weight.data = weight.data.to(types[name])


def _channels_last(weight: torch.Tensor) -> bool:
    return weight.dim() == 4 and weight.shape[1] > 1 and weight.shape[-1] > 1 and weight.stride()[1] == 1


# --- modules that were put in ---------------------------------------------------------------------------


class Widths:
    """Numbers of features of the original -> those of its twin: learnt from the weights that both have, else
    divided by the factor."""

    def __init__(self, twin: torch.nn.Module, original: torch.nn.Module, factor: int) -> None:
        self.factor = factor
        self.known: dict[int, int] = {}
        self._learn(twin, original)

    def _learn(self, twin: torch.nn.Module, original: torch.nn.Module) -> None:
        """What kept its class in all modules above kept its shape."""
        mine = twin._parameters
        for name, weight in original._parameters.items():
            small = mine.get(name)
            if weight is not None and small is not None and weight.dim() == small.dim():
                self.known.update(zip(weight.shape, small.shape, strict=True))
        for name, module in original._modules.items():
            inner = twin._modules.get(name)
            if module is not None and inner is not None and type(module) is type(inner):
                self._learn(inner, module)

    def around(self, mine: torch.nn.Module | None, theirs: torch.nn.Module) -> Widths:
        """The same for what wraps a module of the twin's, as an adapter does: its own weights come first."""
        part = copy.copy(self)
        part.known = dict(self.known)
        for child in theirs.children():
            if mine is not None and type(child) is type(mine):
                part._learn(mine, child)
        return part

    def of(self, width: int) -> int:
        if width in self.known:
            return self.known[width]
        return width // self.factor if width % self.factor == 0 else width


def _graft(twin: torch.nn.Module, original: torch.nn.Module, widths: Widths, *, longer: bool) -> None:
    """Give the twin the submodules that it lacks, or has of another class, and the flags that say so.

    A list is cut to the original's length, and where `longer` made as long.
    """
    flags = {name: value for name, value in vars(original).items() if isinstance(value, bool | str)}
    vars(twin).update({name: value for name, value in flags.items() if not _of_hooks(name)})
    if isinstance(twin, torch.nn.ModuleList) and len(twin) > len(original._modules):
        del twin[len(original._modules) :]
    for name, module in original._modules.items():
        mine = twin._modules.get(name)
        theirs = getattr(module, "_orig_mod", module)  # below torch.compile's wrapper
        if theirs is None or (mine is None and not longer and isinstance(twin, torch.nn.ModuleList)):
            continue
        if mine is not None and type(mine) is type(theirs):
            _graft(mine, theirs, widths, longer=longer)
            continue
        vars(twin).pop(name, None)
        twin._modules[name] = narrowed(theirs, widths.around(mine, theirs))


def narrowed(module: torch.nn.Module, widths: Widths) -> torch.nn.Module:
    """A copy of a module with fewer features and random weights, made without its constructor.

    Raises NoTwin for weights that are no floating-point numbers.
    """
    made = object.__new__(type(module))
    for name, value in vars(module).items():
        if name == "_parameters":
            value = {key: _weight(key, each, widths, module) for key, each in value.items()}
        elif name == "_buffers":
            value = {key: _buffer(each, widths) for key, each in value.items()}
        elif name == "_modules":
            value = {key: each and narrowed(each, widths) for key, each in value.items()}
        elif _of_hooks(name):
            value = type(value)()
        elif name in _FEATURES:
            value = _mapped(value, widths)
        elif isinstance(value, torch.Tensor):
            value = _buffer(value, widths)
        elif isinstance(value, list | dict | set):
            value = copy.copy(value)
        vars(made)[name] = value
    return made


def _of_hooks(name: str) -> bool:
    """Whether an attribute holds a module's hooks, or says that it has them: those are not the twin's."""
    return name.endswith("_hooks") or "_hooks_" in name


def _mapped(value: object, widths: Widths) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_mapped(each, widths) for each in value)
    return widths.of(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _weight(
    name: str, weight: torch.Tensor | None, widths: Widths, module: torch.nn.Module
) -> torch.nn.Parameter | None:
    """Random, of the size that keeps what flows through it: ones where it scales a norm."""
    if weight is None:
        return None
    if not weight.is_floating_point() or is_traceable_wrapper_subclass(weight):
        raise NoTwin(f"the {name} of {type(module).__name__} is quantized")
    shape = [widths.of(n) for n in weight.shape]
    if weight.dim() < 2:
        made = torch.ones(shape) if name == "weight" else 0.02 * torch.randn(shape)
    else:
        made = torch.randn(shape) / max(1, torch.Size(shape[1:]).numel()) ** 0.5
    return torch.nn.Parameter(made.to(weight.dtype), requires_grad=weight.requires_grad)


def _buffer(value: torch.Tensor | None, widths: Widths) -> torch.Tensor | None:
    """With its values, where they are known and it keeps its shape."""
    if value is None:
        return None
    shape = [widths.of(n) for n in value.shape]
    if shape == list(value.shape) and is_known(value):
        return value.detach().to("cpu", copy=True)
    made = torch.randn(shape) if value.is_floating_point() else torch.zeros(shape)
    return made.to(value.dtype)
