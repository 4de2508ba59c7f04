"""Where the tensors of a model lie: storages on the simulated device, bytes on the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from diffprof.gpu.memory_log import Weights
from diffprof.gpu.signatures import dtype_name

from .copies import is_pinned
from .tensor import SimTensor


def pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors of one that may wrap others, as quantized ones do."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) is SimTensor:
        yield tensor
        return
    for name in flatten()[0]:
        yield from pieces(getattr(tensor, name))


def tensors_of(parts: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of the components that are models, each once, with its component."""
    seen: set[int] = set()
    for name, part in parts.items():
        if not isinstance(part, torch.nn.Module):
            continue
        for whole in (*part.parameters(), *part.buffers()):
            for tensor in pieces(whole):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield name, tensor


def weights_on_device(parts: Mapping[str, Any]) -> Iterator[Weights]:
    """Storages of these components on the simulated device."""
    seen: set[int] = set()
    for name, tensor in tensors_of(parts):
        cell = tensor._cell if type(tensor) is SimTensor else None
        if cell is not None and cell.nbytes and cell.number not in seen:
            seen.add(cell.number)
            yield Weights(cell.number, name, cell.nbytes, dtype_name(tensor.dtype))


def host_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """What tensors on the CPU take of its memory."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        if tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            size = storage.nbytes()
            sizes[storage.data_ptr()] = page_locked(size) if is_pinned(tensor) else size
    return sum(sizes.values())


def page_locked(size: int) -> int:
    """Bytes that PyTorch takes for so many page-locked ones: the next power of two
    (`CachingHostAllocatorImpl::allocate` in aten/src/ATen/core/CachingHostAllocator.h)."""
    return 1 << (size - 1).bit_length() if size else 0
