"""Host tensors that stand for data which nobody has, or which the device shall not know.

Offloading keeps weights on the CPU and uploads them again and again. Their values are of no use to a scan,
and on the simulated device they would make it compute for real.
"""

from __future__ import annotations

import functools
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch

from .tensor import NAME, intern_meta, unknown

PLACEHOLDER = "_diffprof_placeholder"
"""Attribute of a CPU storage whose zeros stand for unknown data: copied to the device, they are unknown."""

WEIGHT = "_diffprof_weight"
"""Attribute of such a storage that belongs to a model's parameter."""

UNKNOWN_ONCE_COPIED = "_diffprof_unknown_once_copied"
"""Attribute of a CPU storage with values of its own, unknown once they are copied to the device."""

MAPPED = 1 << 17
"""Bytes. Larger zeros are pages of the system, which takes no memory for them until they are written."""


def placeholder(like: torch.Tensor) -> torch.Tensor:
    """Zeros on the CPU of the geometry and dtype of `like` (on any device) that stand for unknown data.

    Large ones take no memory until they are written.
    """
    elements = 1 + sum((n - 1) * s for n, s in zip(like.shape, like.stride(), strict=True))
    nbytes = max(elements if like.numel() else 0, math.prod(like.shape)) * like.dtype.itemsize
    if nbytes < MAPPED or like.layout is not torch.strided:
        # Of its geometry alone: quantized tensors, which wrap plain ones, have no zeros of their own.
        geometry = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device="meta")
        made = torch.zeros_like(geometry, device="cpu")
    else:
        # torch.zeros writes its zeros, and calloc those in memory used before: ask the system itself.
        raw = torch.frombuffer(zero_pages(nbytes), dtype=torch.uint8)
        made = raw.view(like.dtype).as_strided(like.shape, like.stride())
    setattr(made.untyped_storage(), PLACEHOLDER, True)
    return made


def weight_stand_in(like: torch.Tensor) -> torch.Tensor:
    """What stands for a weight that was never made: on the CPU, such zeros; on the simulated device, a
    tensor without values."""
    if like.device.type == NAME:
        return unknown(intern_meta(like.shape, like.stride(), like.dtype, 0))
    made = placeholder(like)
    setattr(made.untyped_storage(), WEIGHT, True)
    return made


def is_weight_stand_in(t: torch.Tensor) -> bool:
    """Whether a CPU tensor stands for a weight that was never made: writing to it is in vain."""
    return bool(getattr(t.untyped_storage(), WEIGHT, False))


def zero_pages(nbytes: int) -> mmap.mmap:
    """Zeros that take memory only where they are written; Windows has no flags for them and needs none."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        unreserved = getattr(mmap, "MAP_NORESERVE", 0)
        return mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | unreserved)
    return mmap.mmap(-1, nbytes)


def stands_for_unknown(t: torch.Tensor) -> bool:
    """Whether a copy of this CPU tensor on the device has unknown values."""
    storage = t.untyped_storage()
    return bool(getattr(storage, PLACEHOLDER, False) or getattr(storage, UNKNOWN_ONCE_COPIED, False))


def array_stands_for_unknown(array: object) -> bool:
    """The same of a NumPy array that is a view of such a tensor's memory."""
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, torch.Tensor) and stands_for_unknown(array)


def stacking(stack: Callable[..., object]) -> Callable[..., object]:
    """`numpy.stack` that writes no pages where all that is stacked stands for unknown data: a video's
    pictures are gigabytes."""

    @functools.wraps(stack)
    def wrapper(arrays: object, axis: int = 0, **kwargs: object) -> object:
        listed = list(arrays) if isinstance(arrays, list | tuple) else []
        if kwargs or not listed or not all(map(array_stands_for_unknown, listed)):
            return stack(arrays, axis=axis, **kwargs)
        first, alike = listed[0], len({(each.shape, each.dtype) for each in listed}) == 1
        if not alike or not -first.ndim - 1 <= axis <= first.ndim:
            return stack(arrays, axis=axis)
        at = axis % (first.ndim + 1)
        shape = (*first.shape[:at], len(listed), *first.shape[at:])
        dtype = torch.from_numpy(np.empty(0, first.dtype)).dtype
        return placeholder(torch.empty(shape, dtype=dtype, device="meta")).numpy()

    return wrapper


def hold_on_host(module: torch.nn.Module) -> None:
    """Give the parameters of a module that are on `meta` a place on the CPU, without values or memory."""
    memo: dict[int, torch.nn.Parameter] = {}
    for part in module.modules():
        for name, p in part._parameters.items():
            if p is not None and p.is_meta:
                if id(p) not in memo:
                    memo[id(p)] = torch.nn.Parameter(weight_stand_in(p), requires_grad=p.requires_grad)
                part._parameters[name] = memo[id(p)]


@contextmanager
def values_unknown(modules: Iterable[torch.nn.Module]) -> Iterator[None]:
    """Inside, the weights that modules and their offloading hooks keep on the CPU are unknown once they
    are copied to the device. Buffers stay known: control flow may look at them."""
    marked = []
    for tensor in _weights_on_the_host(list(modules)):
        storage = tensor.untyped_storage()
        if not getattr(storage, UNKNOWN_ONCE_COPIED, False):
            setattr(storage, UNKNOWN_ONCE_COPIED, True)
            marked.append(storage)
    try:
        yield
    finally:
        for storage in marked:
            delattr(storage, UNKNOWN_ONCE_COPIED)


def _weights_on_the_host(modules: list[torch.nn.Module]) -> Iterator[torch.Tensor]:
    buffers = {id(b) for module in modules for b in module.buffers()}
    names = {name for module in modules for name, _ in module.named_buffers()}
    seen: set[int] = set()
    for module in modules:
        for part in module.modules():
            yield from (p for p in part._parameters.values() if p is not None and p.device.type == "cpu")
            for hook in _hooks(part):
                yield from _held(hook, buffers, names, seen, depth=4)


def _hooks(module: torch.nn.Module) -> list[object]:
    """accelerate's hook (`_hf_hook`) and diffusers' (`_diffusers_hook`), which keep weights of their own."""
    return [vars(module)[name] for name in ("_hf_hook", "_diffusers_hook") if name in vars(module)]


def _held(
    value: object, buffers: set[int], names: set[str], seen: set[int], depth: int
) -> Iterator[torch.Tensor]:
    """Host tensors in the mappings that an object keeps, but for those of buffers (by identity or name)."""
    if id(value) in seen or depth == 0 or isinstance(value, (torch.nn.Module, torch.Tensor, str)):
        return
    seen.add(id(value))
    if isinstance(value, Mapping) and not hasattr(value, "dataset"):
        for key, item in value.items():
            if isinstance(item, torch.Tensor):
                if item.device.type == "cpu" and id(key) not in buffers and key not in names:
                    yield item
            else:
                yield from _held(item, buffers, names, seen, depth - 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _held(item, buffers, names, seen, depth - 1)
    else:
        for item in getattr(value, "__dict__", {}).values():
            yield from _held(item, buffers, names, seen, depth - 1)
