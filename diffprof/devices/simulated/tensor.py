"""The simulated device's tensor: geometry always, values perhaps.

A `SimTensor` says it is on `sim:0`. Its inner CPU tensor holds the values where they are known; where they
aren't there is none, only geometry. All views of one storage share a `Cell`, which says whether the bytes of
that storage are known: writing unknown data through any view makes all of them unknown.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch._C import _is_torch_function_mode_enabled
from torch.overrides import handle_torch_function

from diffprof.gpu.signatures import TensorMeta, dtype_name

from .blocking import ASSIGNS_ON_DEVICE
from .observer import UnknownValue
from .session import SESSION

NAME = "sim"
"""The device type. `torch.device("sim:0")` is the device."""

GRANULE = 512
"""Bytes. Device storages are counted in units of this: c10/cuda/CUDACachingAllocator.cpp, kMinBlockSize."""

BOUNDLESS = 1 << 50
"""Storage bytes of empty wrappers: `out=` may resize them, and as_strided_ checks the bounds."""

_make_wrapper = torch.Tensor._make_wrapper_subclass
_raw_data = torch.Tensor.data
_metas: dict[tuple, TensorMeta] = {}


def intern_meta(
    shape: torch.Size,
    stride: tuple[int, ...],
    dtype: torch.dtype,
    offset: int,
    device: str = NAME,
    bits: int = 0,
) -> TensorMeta:
    """The one TensorMeta of that geometry."""
    key = (shape, stride, dtype, offset, device, bits)
    meta = _metas.get(key)
    if meta is None:
        if type(shape) is not torch.Size:
            shape = torch.Size(shape)
        meta = _metas[key] = TensorMeta(shape, tuple(stride), dtype, offset, device, bits)
    return meta


def meta_of(t: torch.Tensor) -> TensorMeta:
    """The device geometry that mirrors a CPU or meta tensor."""
    bits = (1 if t.is_conj() else 0) | (2 if t.is_neg() else 0)
    return intern_meta(t.shape, t.stride(), t.dtype, t.storage_offset(), NAME, bits)


def set_bits(t: torch.Tensor, bits: int) -> torch.Tensor:
    """Mark a tensor as a lazy conjugate or negative."""
    if bits & 1:
        torch._C._set_conj(t, True)
    if bits & 2:
        torch._C._set_neg(t, True)
    return t


def host_meta(t: torch.Tensor) -> TensorMeta:
    """Geometry of a CPU tensor."""
    if t.layout is not torch.strided:
        return intern_meta(t.shape, (), t.dtype, 0, "cpu")
    return intern_meta(t.shape, t.stride(), t.dtype, t.storage_offset(), "cpu")


@functools.lru_cache(1 << 14)
def extent(meta: TensorMeta) -> int:
    """Elements of storage from its beginning to the tensor's last element."""
    if not meta.numel:
        return meta.offset
    return meta.offset + 1 + sum((n - 1) * s for n, s in zip(meta.shape, meta.stride, strict=True))


def out_of_memory(nbytes: int, capacity: int) -> torch.OutOfMemoryError:
    """What CUDA raises for an allocation that is larger than all its memory."""
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {nbytes / 2**30:.2f} GiB. GPU 0 has a total capacity of "
        f"{capacity / 2**30:.2f} GiB of which {max(capacity - SESSION.allocated, 0) / 2**30:.2f} GiB is free."
    )


_NUMBERS = itertools.count(1)


def numbers(count: int) -> int:
    """The first of so many numbers in a row for storages."""
    first = next(_NUMBERS)
    deque(itertools.islice(_NUMBERS, count), maxlen=0)
    return first


def forget() -> None:
    """What lies on the device is garbage of an earlier pipeline, not yet collected: no part of what comes."""
    SESSION.forgotten = next(_NUMBERS)
    SESSION.allocated = SESSION.peak = 0


class Guess(NamedTuple):
    """What unknown bytes are taken to be. storage: on the CPU. among: how many there were to choose from."""

    storage: Any
    among: int


class Cell:
    """One device storage. known: whether its bytes are known; counted as memory from birth to death.

    size: its bytes. nbytes: what the allocator takes for it. number: its own, in the order of birth.

    storage: the inner CPU storage where known. epoch: how often known bytes became unknown; inner tensors
    of an older epoch are stale. writes: how often known bytes were overwritten. scalar: made from one Python
    number (see blocking.py, setitem). held: whether changes of what is known count in `SESSION.changes`.
    guess: of unknown bytes, where there is one (choices.py). sources: the numbers of the storages whose known
    bytes these were computed from on the device; empty: they were sent by the CPU.
    """

    __slots__ = (
        *("__weakref__", "epoch", "guess", "held", "known", "nbytes", "number", "scalar", "size", "sources"),
        *("storage", "writes"),
    )

    def __init__(self, known: bool, nbytes: int) -> None:
        self.nbytes = 0
        self.number = next(_NUMBERS)
        if SESSION.capacity is not None and nbytes > SESSION.capacity:
            raise out_of_memory(nbytes, SESSION.capacity)
        if SESSION.capture is not None:
            SESSION.capture.cells.add(self)
        self.known = known
        self.held = False
        self.epoch = 0
        self.scalar = False
        self.writes = 0
        self.storage: object = None
        self.guess: Guess | None = None
        self.sources: frozenset[int] = frozenset()
        self.size = nbytes
        self.nbytes = nbytes = -(-nbytes // GRANULE) * GRANULE
        if nbytes:
            SESSION.allocated += nbytes
            if SESSION.allocated > SESSION.peak:
                SESSION.peak = SESSION.allocated
            if SESSION.on_alloc is not None:
                SESSION.on_alloc(nbytes, self.number)

    @classmethod
    def told(cls, size: int, number: int) -> Cell:
        """One of unknown bytes whose birth was told already."""
        cell = cls(False, 0)
        cell.size, cell.nbytes, cell.number = size, -(-size // GRANULE) * GRANULE, number
        return cell

    def __del__(self, session: Any = SESSION) -> None:
        if self.nbytes and self.number > session.forgotten:
            session.allocated -= self.nbytes
            if session.on_free is not None:
                session.on_free(self.nbytes, self.number)

    def taint(self) -> None:
        """The bytes aren't known any more, through no view."""
        if self.known:
            SESSION.changes += self.held
            self.known = False
            self.storage = None
            self.epoch += 1
            self.scalar = False
        self.guess = None
        SESSION.unknown = True

    def learn(self, storage: object) -> None:
        """All bytes were overwritten with known ones."""
        SESSION.changes += self.held
        self.writes += 1
        self.known = True
        self.guess = None
        self.storage = storage


def _told_to_modes(method: Callable[..., object]) -> Callable[..., object]:
    """Let modes of torch functions see a method that is written in Python, as they see C++'s."""

    @functools.wraps(method)
    def run(self: torch.Tensor, *args: object, **kwargs: object) -> Any:
        if _is_torch_function_mode_enabled():
            return handle_torch_function(run, (self,), self, *args, **kwargs)
        if type(self) is not SimTensor:
            return getattr(torch.Tensor, method.__name__)(self, *args, **kwargs)
        return method(self, *args, **kwargs)

    return run


class SimTensor(torch.Tensor):
    """A tensor on the simulated device. Make one with `known` or `unknown`."""

    _inner: torch.Tensor | None
    _cell: Cell
    _meta: TensorMeta
    _epoch = 0

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, data: torch.Tensor, requires_grad: bool | None = None, **_: object) -> Any:
        # Libraries re-make a parameter with type(old)(new, requires_grad=...).
        if requires_grad is not None:
            return torch.nn.Parameter(data, requires_grad=requires_grad)
        if isinstance(data, SimTensor):
            return data.detach()
        if data.device.type == "meta":
            return unknown(intern_meta(data.shape, data.stride(), data.dtype, data.storage_offset()))
        return known(data)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    @classmethod
    def __torch_dispatch__(
        cls, func: torch._ops.OpOverload, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        return _dispatch(func, args, kwargs)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        from .methods import show

        return show(self)

    def __format__(self, spec: str) -> str:
        if self.dim() == 0 and type(self) is SimTensor:
            return format(self.item(), spec)
        return object.__format__(self, spec)

    def __deepcopy__(self, memo: dict) -> SimTensor:
        copied = memo.get(id(self))
        if copied is None:
            from .methods import duplicate

            copied = memo[id(self)] = duplicate(self, memo)
        return copied

    def __reduce_ex__(self, protocol: object) -> tuple:
        from .methods import pickled

        return pickled(self)

    if ASSIGNS_ON_DEVICE:

        @_told_to_modes
        def __setitem__(self, index: object, value: object) -> None:
            from .indexing import assigned_index

            super().__setitem__(assigned_index(self, index, value), value)

    @_told_to_modes
    def tolist(self) -> object:
        """The values as Python numbers: one copy to the CPU, which waits for it."""
        from .methods import to_list

        return to_list(self)

    def numpy(self, *, force: bool = False) -> object:
        """As on CUDA: refused, unless forced, which copies to the CPU."""
        if force:
            return self.detach().cpu().resolve_conj().resolve_neg().numpy()
        raise TypeError(
            f"can't convert {NAME}:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *args: object, **kwargs: object) -> object:
        return self.numpy()

    def __dlpack__(self, *args: object, **kwargs: object) -> object:
        """There is no memory behind a simulated tensor that another library could read."""
        raise BufferError(f"a tensor on the simulated device {NAME}:0 has no memory to export")

    def pin_memory(self, device: torch.types.Device = None) -> torch.Tensor:
        """As on CUDA: refused."""
        raise RuntimeError(f"cannot pin 'torch.{NAME}.Tensor' only dense CPU tensors can be pinned")

    def is_pinned(self, device: torch.types.Device = None) -> bool:
        """Device memory is never pinned."""
        return False

    def data_ptr(self) -> int:
        """A number of the storage, plus the offset: equal for views of one place, as addresses are."""
        return id(self._cell) * 4096 + self._meta.offset * self._meta.dtype.itemsize

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, new: torch.Tensor) -> None:
        set_data(self, new)


def set_data(t: torch.Tensor, new: torch.Tensor) -> None:
    """`t.data = new`, in any combination of CPU and simulated device.

    On one side C++ exchanges the TensorImpl and the Python fields follow. Between the sides C++ refuses
    (other dispatch keys), so the two Python objects are swapped and what makes it a parameter is kept.
    """
    sim, new_sim = type(t) is SimTensor, type(new) is SimTensor
    if sim and new_sim:
        _raw_data.__set__(t, new)
        adopt(t, new)
    elif not sim and not new_sim:
        _raw_data.__set__(t, new)
    else:
        other = new.detach()
        if isinstance(t, torch.nn.Parameter):
            other = torch.nn.Parameter(other, requires_grad=t.requires_grad)
        elif t.requires_grad:
            other.requires_grad_()
        grad = t.grad if t.is_leaf else None
        fields = {k: v for k, v in t.__dict__.items() if k not in _FIELDS}
        other.__dict__.update(fields)
        torch.utils.swap_tensors(t, other)
        if grad is not None and grad.device == t.device:
            t.grad = grad


_FIELDS = frozenset({"_inner", "_cell", "_meta", "_epoch", "_is_param"})


def adopt(t: SimTensor, new: SimTensor) -> None:
    """Let `t` have the values, storage and geometry of `new` (Python side)."""
    SESSION.changes += 1
    t._inner, t._cell, t._meta, t._epoch = new._inner, new._cell, new._meta, new._epoch


def regeometry(t: SimTensor, new: SimTensor) -> None:
    """Give `t` the geometry and storage of `new`, whatever it had (resizing `out=`, `set_`)."""
    made = _geometry(new._meta, t.is_inference())
    with torch.no_grad(), torch._C._DisableTorchDispatch():
        _raw_data.__set__(t, made)
    adopt(t, new)


def restride(t: SimTensor, meta: TensorMeta, inner: torch.Tensor | None) -> None:
    """Give `t` another view of its storage in place (`unsqueeze_`, `t_`)."""
    with torch._C._DisableTorchDispatch():
        torch.ops.aten.as_strided_.default(t, meta.shape, meta.stride, meta.offset)
    SESSION.changes += 1
    t._meta = meta
    t._inner = inner


DEVICE: torch.device = torch.device("privateuseone", 0)
"""`sim:0`, as it is called once `backend.register` has run."""


def known(
    inner: torch.Tensor, base: SimTensor | None = None, cell: Cell | None = None, requires_grad: bool = False
) -> SimTensor:
    """A device tensor with the values of `inner`. base: the tensor that it is a view of. cell: its storage,
    where that is not one of its own or of `base`."""
    if base is not None:
        return _wrap(meta_of(inner), inner, base._cell, base.is_inference(), requires_grad)
    if cell is None:
        storage = inner.untyped_storage()
        cell = Cell(True, storage.nbytes())
        cell.storage = storage
    return _wrap(meta_of(inner), inner, cell, inner.is_inference(), requires_grad)


def unknown(meta: TensorMeta, base: SimTensor | None = None, requires_grad: bool = False) -> SimTensor:
    """A device tensor of that geometry with unknown values. base: the tensor that it is a view of."""
    if base is not None:
        return _wrap(meta, None, base._cell, base.is_inference(), requires_grad)
    SESSION.unknown = True
    cell = Cell(False, extent(meta) * meta.dtype.itemsize)
    return _wrap(meta, None, cell, torch.is_inference_mode_enabled(), requires_grad)


def view(meta: TensorMeta, cell: Cell) -> SimTensor:
    """A device tensor of that geometry in a storage of unknown bytes."""
    SESSION.unknown = True
    return _wrap(meta, None, cell, torch.is_inference_mode_enabled(), False)


def _wrap(
    meta: TensorMeta, inner: torch.Tensor | None, cell: Cell, inference: bool, requires_grad: bool
) -> SimTensor:
    t = _geometry(meta, inference, requires_grad)
    t._inner = inner
    t._cell = cell
    t._meta = meta
    if cell.epoch:
        t._epoch = cell.epoch
    return t


def _geometry(meta: TensorMeta, inference: bool, requires_grad: bool = False) -> Any:
    """A wrapper without fields. inference: views are inference tensors where what they are views of is one,
    in or out of inference mode; C++ refuses others."""
    if inference is not torch.is_inference_mode_enabled():
        with torch.inference_mode(inference):
            return _geometry(meta, inference, requires_grad)
    t = _make_wrapper(
        SimTensor,
        meta.shape,
        strides=meta.stride,
        storage_offset=meta.offset,
        dtype=meta.dtype,
        device=DEVICE,
        requires_grad=requires_grad,
        storage_size=None if meta.numel else BOUNDLESS,
    )
    # Above the dispatch of Python: ops that don't know the bits get a resolved copy, as on a device.
    return set_bits(t, meta.bits) if meta.bits else t


def within(storage: object, meta: TensorMeta) -> torch.Tensor:
    """The CPU tensor of that geometry in a storage."""
    inner = torch.empty(0, dtype=meta.dtype, device="cpu")
    inner.set_(storage, meta.offset, meta.shape, meta.stride)
    return set_bits(inner, meta.bits)


def inner_of(t: SimTensor) -> torch.Tensor:
    """The CPU tensor with the values of `t`. Raises UnknownValue where there are none."""
    cell = t._cell
    inner = t._inner
    if cell.known:
        if inner is not None and t._epoch == cell.epoch:
            return inner
        inner = t._inner = within(cell.storage, t._meta)
        t._epoch = cell.epoch
        return inner
    raise UnknownValue("an operation", tuple(t.shape), t.dtype)


def sources_of(tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    """The storages, by number, that the CPU has sent and these device tensors follow from."""
    found: frozenset[int] = frozenset()
    for t in tensors:
        if type(t) is SimTensor:
            found |= t._cell.sources or {t._cell.number}
    return found


def covers(t: SimTensor) -> bool:
    """Whether writing all of `t` overwrites every byte of its storage."""
    meta = t._meta
    return meta.offset == 0 and meta.nbytes == t._cell.size and extent(meta) == meta.numel


def _dispatch(func: torch._ops.OpOverload, args: tuple, kwargs: dict | None) -> object:
    raise RuntimeError("the simulated device isn't registered")


def describe(t: SimTensor) -> str:
    """A short text for people: no values."""
    state = "known" if t._cell.known else "unknown values"
    return f"tensor(shape={tuple(t.shape)}, dtype={dtype_name(t.dtype)}, device={NAME}:0, {state})"


__all__ = [
    "BOUNDLESS",
    "NAME",
    "Cell",
    "Guess",
    "SimTensor",
    "adopt",
    "covers",
    "describe",
    "extent",
    "host_meta",
    "inner_of",
    "intern_meta",
    "known",
    "regeometry",
    "restride",
    "set_data",
    "sources_of",
    "unknown",
    "within",
]
