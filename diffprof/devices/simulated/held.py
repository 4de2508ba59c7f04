"""Where the tensors of a model lie: storages on the simulated device, bytes in host memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from diffprof.gpu.memory_log import Weights
from diffprof.gpu.signatures import dtype_name
from diffprof.model.pipeline import walked

from .copies import is_pinned
from .tensor import SimTensor


def pieces(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """The plain tensors of one that may wrap others, as quantized ones do."""
    flatten = None if type(tensor) is SimTensor else getattr(tensor, "__tensor_flatten__", None)
    if flatten is None:
        return (tensor,)
    return [each for name in flatten()[0] for each in pieces(getattr(tensor, name))]


def tensors_of(parts: Mapping[str, object]) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers of the components that are models, each once, with its component."""
    seen: set[int] = set()
    for name, part in parts.items():
        if not isinstance(part, torch.nn.Module):
            continue
        modules = [module for _, module in walked(part)]
        for whole in (*_held(modules, "_parameters"), *_held(modules, "_buffers")):
            for tensor in pieces(whole):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield name, tensor


def _held(modules: Iterable[torch.nn.Module], where: str) -> Iterator[torch.Tensor]:
    for module in modules:
        yield from (tensor for tensor in vars(module)[where].values() if tensor is not None)


def weights_on_device(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[Weights]:
    """Storages on the simulated device of tensors, each given with its component."""
    seen: set[int] = set()
    for name, tensor in tensors:
        cell = tensor._cell if type(tensor) is SimTensor else None
        if cell is not None and cell.nbytes and cell.number not in seen:
            seen.add(cell.number)
            yield Weights(cell.number, name, cell.nbytes, dtype_name(tensor.dtype))


def storages_of(parts: Mapping[str, object]) -> dict[int, int]:
    """Bytes by number of the storages on the simulated device that components hold: those of models, and
    tensors that others have as attributes."""
    others = (part for part in parts.values() if not isinstance(part, torch.nn.Module))
    kept = (value for part in others for value in getattr(part, "__dict__", {}).values())
    tensors = (*(each for _, each in tensors_of(parts)), *kept)
    cells = (each._cell for each in tensors if type(each) is SimTensor)
    return {cell.number: cell.nbytes for cell in cells}


def host_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """What tensors on the CPU take of its memory."""
    sizes: dict[int, int] = {}
    for tensor in tensors:
        if type(tensor) is not SimTensor and tensor.device.type == "cpu":
            storage = tensor.untyped_storage()
            size = storage.nbytes()
            sizes[storage.data_ptr()] = page_locked(size) if is_pinned(tensor) else size
    return sum(sizes.values())


def page_locked(size: int) -> int:
    """Bytes that PyTorch takes for so many page-locked ones: the next power of two
    (`CachingHostAllocatorImpl::allocate` in aten/src/ATen/core/CachingHostAllocator.h)."""
    return 1 << (size - 1).bit_length() if size else 0
