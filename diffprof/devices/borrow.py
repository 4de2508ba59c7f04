"""Use a pipeline somewhere else for a while, and give it back as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from diffprof.devices import cuda_runtime
from diffprof.model.pipeline import Pipeline, components, execution_device

if TYPE_CHECKING:
    from diffprof.devices import Device


@contextmanager
def borrowed(pipe: Pipeline, *, drop_values: bool = False) -> Iterator[None]:
    """Inside, parameters and buffers are copies that may be moved, cast or replaced; after it, every
    module has its own tensors again, and schedulers and other parts the attributes they had.

    drop_values: the copies are on `meta`, so no memory is taken.
    """
    modules = [
        m for part in components(pipe).values() if isinstance(part, torch.nn.Module) for m in part.modules()
    ]
    plain = [part for part in (pipe, *components(pipe).values()) if not isinstance(part, torch.nn.Module)]
    tensors = [(m, dict(m._parameters), dict(m._buffers), m.training) for m in modules]
    attributes = [(part, _copied(part)) for part in plain if hasattr(part, "__dict__")]
    seen: dict[int, object] = {}
    for module, parameters, buffers, _ in tensors:
        for own, held in ((module._parameters, parameters), (module._buffers, buffers)):
            for name, tensor in held.items():
                if tensor is not None:
                    if id(tensor) not in seen:
                        keep = drop_values and own is module._parameters
                        seen[id(tensor)] = _twin(tensor, drop_values=keep)
                    own[name] = seen[id(tensor)]
    try:
        yield
    finally:
        for module, parameters, buffers, training in tensors:
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
            module.training = training
        for part, before in attributes:
            vars(part).clear()
            vars(part).update(before)


@contextmanager
def lent(pipe: Pipeline, device: Device) -> Iterator[None]:
    """Inside, a live pipeline stands on the device; after it, it is where and as it was."""
    if device.gpu is not None:
        with borrowed(pipe, drop_values=True):
            device.place(pipe)
            yield
        return
    before = execution_device(pipe)
    moves = before is not None and not same_place(before, device.torch_device)
    if moves:
        device.place(pipe)
    try:
        yield
    finally:
        if moves:
            pipe.to(before)


def same_place(one: torch.device, other: torch.device) -> bool:
    """Whether two devices are one; `cuda` without a number is the current one."""
    if one.type != other.type or one.type == "cpu":
        return one.type == other.type
    current = cuda_runtime.RUNTIME.current() if one.type == "cuda" and cuda_runtime.RUNTIME.count() else 0
    numbers = [current if each.index is None else each.index for each in (one, other)]
    return numbers[0] == numbers[1]


def _copied(part: object) -> dict[str, object]:
    """The attributes of an object, with containers that a call may fill in place copied."""
    return {
        name: copy.copy(value) if type(value) in (list, dict, set) else value
        for name, value in vars(part).items()
    }


def _twin(tensor: torch.Tensor, *, drop_values: bool) -> torch.Tensor:
    with torch.no_grad():
        inner = torch.empty_like(tensor, device="meta") if drop_values else tensor.detach().clone()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(inner, requires_grad=tensor.requires_grad)
    return inner
