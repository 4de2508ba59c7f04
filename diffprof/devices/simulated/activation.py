"""Switching the simulated device on and off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

import torch

from diffprof.model.errors import DiffprofError, UsageError

from . import autocast, graphs, patches
from .backend import register
from .heap import settled
from .observer import Observer
from .session import SESSION
from .tensor import SimTensor, sources_of
from .tf32 import Tf32Products

if TYPE_CHECKING:
    from diffprof.gpu.specs import GpuSpec


@contextmanager
def simulated_gpu(
    observer: Observer | None = None,
    *,
    unknown_reads: Literal["assume", "raise"] = "assume",
    spec: GpuSpec | None = None,
) -> Iterator[torch.device]:
    """Let `sim:0` be the machine's GPU; the process is as before when it ends.

    observer: is told what is launched and what blocks. unknown_reads: what happens where the CPU needs a
    value that is unknown. spec: the GPU whose name, memory and capability `torch.sim` reports.

    Raises DiffprofError if it is active already, or if PyTorch can't have such a device.
    """
    if unknown_reads not in ("assume", "raise"):
        raise UsageError(f"unknown_reads={unknown_reads!r}", 'Say "assume" or "raise".')
    device = register()
    if SESSION.active:
        raise DiffprofError(
            "The simulated device is active already.",
            "Leave the other simulated_gpu() first: there is one device.",
        )
    undo = patches.install()
    SESSION.active = True
    SESSION.spec = spec
    SESSION.capacity = None if spec is None else spec.memory_bytes
    SESSION.capture = SESSION.made_up = None
    SESSION.stream = 0
    graphs.CAPTURES.clear()
    SESSION.unknown_reads = unknown_reads
    SESSION.assumed = SESSION.ops = SESSION.drained = SESSION.hits = SESSION.misses = 0
    SESSION.peak = SESSION.allocated
    SESSION.watch(observer)
    try:
        with settled():
            yield device
        SESSION.made_up = None
    finally:
        SESSION.active = False
        SESSION.spec = SESSION.capacity = SESSION.capture = None
        SESSION.unknown = SESSION.guessed = False
        SESSION.clear()
        autocast.clear_cache()
        undo()


@contextmanager
def observing(observer: Observer | None) -> Iterator[None]:
    """Tell another observer for a while; the one before is told again after it."""
    before = SESSION.observer
    SESSION.watch(observer)
    try:
        yield
    finally:
        SESSION.watch(before)


@contextmanager
def multiplying(products: Tf32Products) -> Iterator[None]:
    """Products of known values are computed as on tensor cores for a while."""
    SESSION.tf32 = products
    try:
        yield
    finally:
        SESSION.tf32 = None


def same_storage(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors share memory, on the simulated device or on a real one."""
    if type(one) is SimTensor or type(other) is SimTensor:
        return type(one) is type(other) and one._cell is other._cell
    return (
        one.device == other.device and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    )


def follows_from(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the known values of a simulated tensor were computed from what the CPU sent for another."""
    return not sources_of([one]).isdisjoint(sources_of([other]))


def is_simulated(tensor: object) -> bool:
    """Whether it is a tensor on the simulated device."""
    return type(tensor) is SimTensor


def is_known(tensor: torch.Tensor) -> bool:
    """Whether the values are known; a tensor on another device always is, one on `meta` never."""
    if type(tensor) is SimTensor:
        return tensor._cell.known
    return tensor.device.type != "meta"
