"""Bytes of tensors, kept so that they can be put back: a copy on the CPU, made once for each content, and
compared with what is on the device by a fingerprint that the device computes."""

from __future__ import annotations

import collections
import functools
import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

CHUNK = 1 << 23
"""Words of 8 bytes that are multiplied at a time: 64 MiB."""

STEP = 0x5851F42D4C957F2D
"""An odd factor between chunks (Knuth's MMIX generator)."""


def fingerprint(data: torch.Tensor) -> int:
    """64 bits of a contiguous tensor of bytes, computed where it lies.

    Each word of 8 bytes is multiplied by an odd number of its own and all are added up, modulo 2^64: a change
    of one word always shows, and one of several with a chance of about 1 - 2^-63 (multiply-shift hashing,
    Dietzfelbinger 1996). Integers, so that the order of the sum does not matter.
    """
    whole = data.numel() // 8 * 8
    factors = _factors(data.device, min(CHUNK, whole // 8))
    found = torch.zeros((), dtype=torch.int64, device=data.device)
    for chunk in data[:whole].view(torch.int64).split(CHUNK):
        found = found * STEP + (chunk * factors[: chunk.numel()]).sum()
    rest = int.from_bytes(bytes(data[whole:].tolist()), "little")
    return (int(found) * STEP + rest) % (1 << 64)


def _factors(device: torch.device, count: int) -> torch.Tensor:
    """Odd numbers without a pattern, always the same. Made anew each time: kept, they would be counted in the
    peak of the pipeline that is measured."""
    found = torch.arange(1, count + 1, dtype=torch.int64, device=device) * STEP
    return ((found ^ (found >> 29)) * 0x1F2E3D4C5B6A7989) | 1


class Kept:
    """One storage with the bytes that it had. here: the storage, as bytes; None while it is parked."""

    def __init__(self, storage: torch.UntypedStorage, device: torch.device) -> None:
        self.here: torch.Tensor | None = torch.empty(0, dtype=torch.uint8, device=device).set_(storage)
        self.device = device
        self.copy = self.here.to("cpu", copy=True)
        self._print = None if device.type == "cpu" else fingerprint(self.here)

    @property
    def place(self) -> int:
        """The address; 0 while it is parked."""
        return 0 if self.here is None else self.here.data_ptr()

    def same(self) -> bool:
        """Whether the storage still has these bytes."""
        if self.here is None or self.here.numel() != self.copy.numel():
            return False
        if self._print is None:
            return torch.equal(self.here, self.copy)
        return fingerprint(self.here) == self._print

    def back(self) -> torch.Tensor:
        """The storage with its bytes: written where they changed, uploaded where it was parked."""
        if self.here is None:
            self.here = self.copy.to(self.device, copy=True)
        elif not self.same():
            self.here.copy_(self.copy)
        return self.here


@dataclass(frozen=True)
class View:
    """A tensor as it lies in a kept storage."""

    kept: Kept
    dtype: torch.dtype
    shape: torch.Size
    stride: tuple[int, ...]
    offset: int

    def data(self, back: Mapping[Kept, torch.Tensor]) -> torch.Tensor:
        """The tensor's data, in storages that were given back."""
        empty = torch.empty(0, dtype=self.dtype, device=self.kept.device)
        return empty.set_(back[self.kept].untyped_storage(), self.offset, self.shape, self.stride)


class Remembers(Protocol):
    """A snapshot."""

    def tensors(self) -> Iterable[torch.Tensor]:
        """Those that it gives their data back."""


class Storages:
    """Storages that a series of snapshots keeps, each content once.

    spare: the device whose memory is short. There, what only snapshots hold can be parked: its bytes are on
    the CPU, and come back with the snapshot that wants them.
    """

    def __init__(self, spare: torch.device | None = None) -> None:
        self.spare = spare
        self._kept: weakref.WeakSet[Kept] = weakref.WeakSet()
        self._users: weakref.WeakSet[Remembers] = weakref.WeakSet()

    def used_by(self, snapshot: Remembers) -> None:
        """Until it is gone, what it remembers may be parked."""
        self._users.add(snapshot)

    def by_place(self) -> dict[int, list[Kept]]:
        """Address -> what was kept of it: of what is not parked, as it stands now."""
        found: dict[int, list[Kept]] = {}
        for each in self._kept:
            if each.place:
                found.setdefault(each.place, []).append(each)
        return found

    def view(self, tensor: torch.Tensor, seen: dict[int, Kept], known: Mapping[int, Sequence[Kept]]) -> View:
        """A tensor's place, with its bytes. seen: address -> what one snapshot kept of it already. known:
        address -> what earlier ones did."""
        storage = tensor.untyped_storage()
        kept = seen.get(storage.data_ptr())
        if kept is None:
            same = (each for each in known.get(storage.data_ptr(), ()) if each.same())
            kept = next(same, None) or Kept(storage, tensor.device)
            self._kept.add(kept)
            seen[storage.data_ptr()] = kept
        return View(kept, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())

    def park(self, roots: Iterable[object]) -> None:
        """Free what no root uses any more. Tensors that snapshots remember of it are empty until a snapshot
        gives their data back."""
        if self.spare is None:
            return
        live = {each.untyped_storage().data_ptr() for each in reachable(roots)}
        parked = {each.place for each in self._kept if each.device == self.spare} - live - {0}
        for tensor in {id(each): each for user in self._users for each in user.tensors()}.values():
            if tensor.device == self.spare and tensor.untyped_storage().data_ptr() in parked:
                tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        for kept in self._kept:
            if kept.place in parked:
                kept.here = None


def reachable(roots: Iterable[object]) -> list[torch.Tensor]:
    """Every tensor with a storage that can be reached from objects: by attributes, containers, closures and
    default arguments, and inside tensors that wrap others."""
    found: list[torch.Tensor] = []
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, str | bytes | int | float | type | types.ModuleType):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            waiting += _inner(thing, found)
        else:
            waiting += _within(thing)
    return found


def _inner(tensor: torch.Tensor, found: list[torch.Tensor]) -> list[object]:
    """What a tensor wraps; one that wraps nothing is added to those found."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    if flatten is not None:
        return [getattr(tensor, name) for name in flatten()[0]]
    if tensor.layout is torch.strided and tensor.device.type != "meta":
        found.append(tensor)
    return [tensor.grad] if tensor.is_leaf and tensor.grad is not None else []


def _within(thing: object) -> list[object]:
    if isinstance(thing, dict):
        return [*thing.values()]
    if isinstance(thing, list | tuple | set | frozenset | collections.deque):
        return [*thing]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    held = [*vars(thing).values()] if hasattr(thing, "__dict__") else []
    if isinstance(thing, functools.partial):
        return [*held, thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.FunctionType):
        cells = [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
        return [*held, *cells, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
    return held


def _is_filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False
