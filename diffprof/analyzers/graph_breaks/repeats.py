"""Capture equal blocks once: which modules are the same, and a marker that stands for one of them.

A block may be left out of its parent's capture when it is sure to add nothing: its own capture is one graph
without breaks that writes to nothing, and it is the same as the captured one in class, structure, attributes,
parameter shapes, hooks and inputs. What an instance adds to the graph is then known: the same operations.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from diffprof.analyzers.graph_breaks.signature import Given, Signature, signature

MIN_MODULES = 4
"""Modules in a block. Smaller ones cost less to trace than to compare."""

MIN_SAVED = 24
"""Modules that need no tracing when equal blocks are folded; below, a capture of its own costs more."""


def fingerprint(module: torch.nn.Module) -> str:
    """Hash of all that tracing a module's code can see, but the values of its tensors."""
    return hashlib.sha256(repr(_structure(module, {})).encode()).hexdigest()


def _structure(value: Any, seen: dict[int, int]) -> Any:
    """A nested tuple that is equal for objects that Python code can't tell apart. An object met a second time
    is named by its first place; what can't be looked into is named by its identity, hence equal to nothing."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return (type(value).__name__, repr(value))
    if isinstance(value, torch.dtype | torch.device | torch.Size | torch.layout):
        return repr(value)
    if id(value) in seen:
        return ("again", seen[id(value)])
    seen[id(value)] = len(seen)
    if isinstance(value, torch.Tensor):
        geometry = (tuple(value.shape), value.stride() if value.layout is torch.strided else ())
        return (type(value).__qualname__, str(value.dtype), value.requires_grad, str(value.device), geometry)
    if isinstance(value, torch.nn.Module):
        return (_name(type(value)), _attributes(vars(value), seen))
    if isinstance(value, dict):
        return (_name(type(value)), tuple((_structure(k, seen), _structure(v, seen)) for k, v in value.items()))
    if isinstance(value, list | tuple | set | frozenset):
        return (_name(type(value)), tuple(_structure(v, seen) for v in value))
    if isinstance(value, type):
        return ("class", _name(value))
    code = getattr(value, "__code__", None)
    if code is not None and not getattr(value, "__closure__", None):
        return ("function", id(code))
    if hasattr(value, "__func__") and hasattr(value, "__self__"):
        return ("method", _structure(value.__func__, seen), _structure(value.__self__, seen))
    if hasattr(value, "__dict__") and not callable(getattr(value, "__torch_function__", None)):
        slots = [n for c in type(value).__mro__ for n in getattr(c, "__slots__", ())]
        if not slots and type(value).__module__.partition(".")[0] != "builtins":
            return (_name(type(value)), _attributes(vars(value), seen))
    if callable(value) and hasattr(value, "__name__") and not hasattr(value, "__closure__"):
        return ("builtin", value.__name__)
    return ("object", id(value))


def _attributes(held: dict[str, Any], seen: dict[int, int]) -> tuple[Any, ...]:
    return tuple((name, _structure(value, seen)) for name, value in held.items())


def _name(cls: type) -> tuple[str, int]:
    return (cls.__qualname__, id(cls))


@dataclass
class Block:
    """Equal modules that were called alike. inputs: of one call; output: what that call returned."""

    modules: list[torch.nn.Module]
    inputs: Signature
    output: Signature

    @property
    def size(self) -> int:
        """Modules in one of them."""
        return _size(self.modules[0])


@dataclass
class Seen:
    """What one module was called with and returned; steady: every call of it was alike."""

    module: torch.nn.Module
    inputs: Signature
    output: Signature | None = None
    steady: bool = True


class Repeats:
    """Follows one call of a model, for `equal_blocks` to find the blocks in it that are the same."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.seen: dict[int, Seen] = {}
        self._open: list[Signature] = []
        self._handles: list[Any] = []
        for module in _candidates(model):
            self._handles.append(module.register_forward_pre_hook(self._before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after, with_kwargs=True))

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _before(self, module: torch.nn.Module, args: Any, kwargs: Any) -> None:
        given = signature((args, kwargs), values=False)
        seen = self.seen.get(id(module))
        if seen is None:
            self.seen[id(module)] = Seen(module, given, steady=_plain(given))
        elif seen.inputs.key != given.key:
            seen.steady = False

    def _after(self, module: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        seen = self.seen[id(module)]
        if seen.output is None:
            seen.output = signature(output, values=False)


def equal_blocks(seen: Iterable[Seen]) -> list[Block]:
    """Groups of equal blocks that are worth folding, small ones first, so that the capture of a larger one
    meets the smaller ones folded. Call after Repeats is closed: hooks are part of what is compared."""
    groups: dict[tuple[Any, ...], Block] = {}
    for each in seen:
        if not each.steady or each.output is None or not _rebuildable(each.output):
            continue
        key = (fingerprint(each.module), each.inputs.key, each.output.key)
        groups.setdefault(key, Block([], each.inputs, each.output)).modules.append(each.module)
    worth = [b for b in groups.values() if (len(b.modules) - 1) * b.size >= MIN_SAVED]
    return sorted(worth, key=lambda block: block.size)


def _candidates(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Submodules of a class that occurs at least twice, large enough to be worth it."""
    counts = Counter(type(m) for m in model.modules())
    for module in model.modules():
        if module is not model and counts[type(module)] > 1 and _size(module) >= MIN_MODULES:
            yield module


def _size(module: torch.nn.Module) -> int:
    return sum(1 for _ in module.modules())


def _plain(given: Signature) -> bool:
    """Only tensors and plain values: an object's state could differ between calls."""
    return all(
        x is None or isinstance(x, Given | bool | int | float | str | torch.dtype | torch.device)
        for x in given.leaves
    )


def _rebuildable(output: Signature) -> bool:
    """A tensor, or a tuple of tensors: what markers can return."""
    if not output.leaves or not all(isinstance(leaf, Given) for leaf in output.leaves):
        return False
    return output.spec.is_leaf() or (
        output.spec.type is tuple and all(child.is_leaf() for child in output.spec.children())
    )


def markers(output: Signature) -> list[Callable[..., torch.Tensor]]:
    """Functions that Dynamo puts into the graph as one operation each; together they return the output."""
    return [_marker(leaf) for leaf in output.leaves]


def _marker(like: Given) -> Callable[..., torch.Tensor]:
    def block(*tensors: torch.Tensor) -> torch.Tensor:
        return torch.empty_strided(like.shape, like.stride, dtype=like.dtype, device=tensors[0].device)

    return torch._dynamo.allow_in_graph(block)


def stand_in(output: Signature, put: list[Callable[..., torch.Tensor]]) -> Callable[..., Any]:
    """A `forward` that applies the markers to the tensors among its arguments and returns what they return."""
    single = output.spec.is_leaf()

    def forward(*args: Any, **kwargs: Any) -> Any:
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        tensors += [a for a in kwargs.values() if isinstance(a, torch.Tensor)]
        if single:
            return put[0](*tensors)
        return tuple([each(*tensors) for each in put])

    return forward
