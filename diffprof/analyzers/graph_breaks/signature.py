"""Arguments of a call as data: geometry of tensors, values of the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

from diffprof.analyzers.graph_breaks.storageless import (
    KEPT,
    Emptier,
    fill,
    laid_over,
    small_values,
    span,
    unallocated_storage,
)


@dataclass(frozen=True)
class Given:
    """A tensor argument: its geometry, and its values where they are few. offset: of its first element in its
    storage, in elements; storage: number of the storage that it shares with other tensors of the call."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    values: torch.Tensor | None = field(default=None, compare=False)
    offset: int = field(default=0, compare=False)
    storage: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')}{list(self.shape)}{list(self.stride)}"

    @property
    def nbytes(self) -> int:
        """Of storage, from its start to the tensor's end."""
        return (self.offset + span(self.shape, self.stride)) * self.dtype.itemsize

    def made(self, storage: torch.UntypedStorage | None = None) -> torch.Tensor:
        """A tensor like it, without memory. storage: the one that it shares."""
        storage = storage if storage is not None else unallocated_storage(self.nbytes)
        made = laid_over(storage, self.offset, self.shape, self.stride, self.dtype)
        return made if self.values is None else fill(made, self.values)


@dataclass(frozen=True)
class Signature:
    """Arguments (and result) of a call with each tensor as a Given. Other objects are kept themselves."""

    leaves: tuple[Any, ...]
    spec: torch.utils._pytree.TreeSpec

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for calls that Dynamo should treat alike: geometry of tensors, value and type of the rest."""
        parts = (str(x) if isinstance(x, Given) else (type(x).__name__, _printed(x)) for x in self.leaves)
        return (str(self.spec), *parts)

    def values(self, emptier: Emptier) -> Any:
        """The arguments again, in the child: storageless tensors in the place of the real ones."""
        made: dict[int, torch.Tensor] = {}
        shared = {number: unallocated_storage(nbytes) for number, nbytes in self._shared().items()}
        out = []
        for leaf in self.leaves:
            if isinstance(leaf, Given):
                if id(leaf) not in made:
                    made[id(leaf)] = leaf.made(shared.get(leaf.storage))
                out.append(made[id(leaf)])
            else:
                emptier.empty(leaf)
                out.append(_on_cpu(leaf))
        return pytree.tree_unflatten(out, self.spec)

    def _shared(self) -> dict[int | None, int]:
        """Storage that tensors share -> bytes that they need of it."""
        sizes: dict[int | None, int] = {}
        for leaf in self.leaves:
            if isinstance(leaf, Given) and leaf.storage is not None:
                sizes[leaf.storage] = max(sizes.get(leaf.storage, 0), leaf.nbytes)
        return sizes

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of its tensors."""
        return tuple(leaf.shape for leaf in self.leaves if isinstance(leaf, Given))


def signature(value: object, *, values: bool = True) -> Signature:
    """Describe arguments or a result. values: keep those of small tensors."""
    seen: dict[int, Given] = {}
    leaves, spec = pytree.tree_flatten(value)
    shared = _shared_storages(leaves)
    return Signature(tuple(_given(leaf, seen, values, shared) for leaf in leaves), spec)


def _given(leaf: object, seen: dict[int, Given], keep: bool, shared: Mapping[int, int]) -> object:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    if id(leaf) not in seen:
        strided = leaf.layout is torch.strided
        few = keep and leaf.numel() <= KEPT and leaf.device.type != "meta" and strided
        values = small_values(leaf).clone() if few else None
        stride, offset = (tuple(leaf.stride()), leaf.storage_offset()) if strided else ((), 0)
        seen[id(leaf)] = Given(tuple(leaf.shape), stride, leaf.dtype, values, offset, shared.get(id(leaf)))
    return seen[id(leaf)]


def _shared_storages(leaves: Sequence[object]) -> dict[int, int]:
    """id of a tensor -> number of its storage, for tensors that share one with another tensor."""
    of: dict[int, dict[int, torch.Tensor]] = {}
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and leaf.layout is torch.strided:
            of.setdefault(leaf.untyped_storage()._cdata, {})[id(leaf)] = leaf
    together = (tensors for tensors in of.values() if len(tensors) > 1)
    return {each: number for number, tensors in enumerate(together) for each in tensors}


def _printed(value: object) -> str:
    if value is None or isinstance(value, bool | int | float | str | torch.dtype | torch.device):
        return repr(value)
    return f"{type(value).__qualname__} object"


def _on_cpu(value: object) -> object:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    if isinstance(value, torch.Generator) and value.device.type != "cpu":
        return torch.Generator().manual_seed(value.initial_seed())
    return value


# --- results -------------------------------------------------------------------------------------------

Build = Callable[[Sequence[torch.Tensor]], Any]


@dataclass(frozen=True)
class Skeleton:
    """A result without its tensors. tensors: their geometry; build: makes it again from such tensors, in code
    that Dynamo can trace."""

    tensors: tuple[Given, ...]
    build: Build


def skeleton(value: object) -> Skeleton | None:
    """The form of a component's result: tensors in tuples, lists, dicts, model outputs. None for others."""
    tensors: list[Given] = []
    build = _builder(value, tensors)
    return Skeleton(tuple(tensors), build) if build is not None and tensors else None


def _builder(value: Any, tensors: list[Given]) -> Build | None:
    if isinstance(value, torch.Tensor):
        at = len(tensors)
        tensors.append(Given(tuple(value.shape), tuple(value.stride()), value.dtype))
        return lambda made: made[at]
    if value is None or isinstance(value, bool | int | float | str):
        return lambda made: value
    if type(value) in (tuple, list):
        inner = [_builder(v, tensors) for v in value]
        if any(b is None for b in inner):
            return None
        cls: Any = type(value)
        return lambda made: cls([b(made) for b in inner])  # type: ignore[misc]
    if isinstance(value, dict):
        fields = {str(k): _builder(v, tensors) for k, v in value.items()}
        if any(b is None for b in fields.values()):
            return None
        kind: Any = type(value)
        return lambda made: kind(**{k: b(made) for k, b in fields.items()})  # type: ignore[misc]
    return None
