"""Reads of what the host itself has uploaded, answered by the host."""

import re
import threading

import torch
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from diffprof.analyzers.syncs.shims.standing import _around_methods, _tensor_in_call


class _Known(threading.local):
    """Device tensors that the host has the values of -> (its copy, the version that it is a copy of)."""

    def __init__(self):
        self.tensors = WeakTensorKeyDictionary()


_known = _Known()


_READS = re.compile("__(bool|int|float|index|format|contains)__|item|tolist|cpu|equal|is_nonzero")
_CONVERTS = re.compile("to|cuda|long|int|float|double|half|bfloat16|type")
_EXACT = re.compile(  # Correctly rounded, or whole numbers. Not division: CUDA may round it otherwise.
    "(__)?(r?add|r?sub|r?mul|neg|abs|floor|ceil|argmin|argmax|eq|ne|lt|le|gt|ge"
    "|logical_(and|or|not)|clone)(?(1)__)"
)
_WRITES = re.compile(r"\w+[^_]_|__i(add|sub|mul|truediv|floordiv|mod|and|or|xor)__|__setitem__")
_LARGEST = 4096  # Elements: a table of timesteps or sigmas, not an image.


class _HostCopies(TorchFunctionMode):
    """Remembers what is uploaded (timesteps, sigmas) and answers reads of it without asking the device.

    `if t > 0`, `table[t]` and `.item()` make the host wait until the device has done all its work, for a
    number that the host had sent there. Here the device computes what it always computes, with the same
    tensors; the host computes along what is exact on both sides, and reads its own copy. What it does not
    know is read from the device as before. Results are bit-identical.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        to_host = name == "to" and _target(args, kwargs) == "cpu"
        if (_READS.fullmatch(name) or to_host) and self.knows(args):
            return func(*map(_host, args), **kwargs)
        if name == "nonzero" and self.knows(args):
            return self.nonzero(*args, **kwargs)
        if name == "__getitem__":
            args = (args[0], self.index(*args))
        elif name in ("tensor", "as_tensor"):
            args = (self.elements(args[0]), *args[1:]) if args else args
        result = func(*args, **kwargs)
        if _WRITES.fullmatch(name):
            self.forget(args[0])
        elif isinstance(result, torch.Tensor) and result.device.type != "cpu" and result.numel() <= _LARGEST:
            if _CONVERTS.fullmatch(name) and self.knows(args[:1]):
                self.remember(result, _host(args[0]).to(result.dtype))
            elif _EXACT.fullmatch(name) and not kwargs and self.knows(args):
                self.remember(result, func(*map(_host, args)))
            elif name == "__getitem__" and result.is_inference() and self.knows([result]):
                self.remember(result, _host(result))  # A view does not keep its base alive there.
        return result

    def knows(self, args):
        try:
            return all(_host(a) is not None for a in args if a is not None)
        except RuntimeError:  # a tensor without memory of its own
            return False

    def remember(self, on_device, on_host):
        if on_device.is_contiguous() and on_device.shape == on_host.shape:
            on_host = on_host.detach().contiguous().clone()
            _known.tensors[on_device] = on_host, _version(on_device)

    def forget(self, written):
        for tensor in list(_known.tensors) if isinstance(written, torch.Tensor) else ():
            if _offset(written, tensor) is not None:
                del _known.tensors[tensor]

    def learn(self, table):
        """Read a table once, if it was not uploaded from a copy that is known."""
        if isinstance(table, torch.Tensor) and table.device.type != "cpu" and not self.knows([table]):
            self.remember(table, table.cpu())

    def nonzero(self, mask, **kwargs):
        """As many rows as the host counts, so that the device need not be asked."""
        found = _host(mask).nonzero()
        rows = torch.nonzero_static(mask, size=len(found))
        if not kwargs.get("as_tuple"):
            self.remember(rows, found)
            return rows
        columns = rows.unbind(1)
        for column, on_host in zip(columns, found.unbind(1), strict=True):
            self.remember(column, on_host)
        return columns

    def index(self, table, index):
        """Whole numbers that the host knows, as host numbers; the device's own where it gathers by itself."""
        if isinstance(index, tuple):
            return tuple(self.index(table, part) for part in index)
        number = (
            isinstance(index, torch.Tensor) and not index.is_floating_point() and index.dtype != torch.bool
        )
        if number and (index.dim() == 0 or table.device.type == "cpu") and self.knows([index]):
            return _host(index)
        return index

    def elements(self, data):
        if isinstance(data, (list, tuple)):
            return type(data)(self.elements(element) for element in data)
        return (
            _host(data) if isinstance(data, torch.Tensor) and data.dim() == 0 and self.knows([data]) else data
        )


def _host(value):
    """The value where it is no device tensor, else the host's copy, or None."""
    if not isinstance(value, torch.Tensor):
        return None if isinstance(value, (list, tuple)) else value
    return value if value.device.type == "cpu" else _copy_of(value)


def _copy_of(value):
    """A view is known by its place in a tensor that is known, as is `t` of `for t in timesteps`."""
    for tensor, (copy, version) in _known.tensors.items():
        offset = _offset(value, tensor)
        if offset is not None and value.dtype == tensor.dtype and version == _version(value):
            return copy.as_strided(value.shape, value.stride(), offset)
    return None


def _offset(value, tensor):
    """Where in the memory of a tensor a view of it begins, in elements; None for another's memory."""
    offset = (value.data_ptr() - tensor.data_ptr()) // tensor.element_size()
    return offset if value.device == tensor.device and 0 <= offset < tensor.numel() else None


def _version(tensor):
    """Changes with every write in place. In inference mode there is none: `forget` sees the writes."""
    return None if tensor.is_inference() else tensor._version


def _target(args, kwargs):
    """The device type that `.to` goes to, if it names one."""
    for given in (*args[1:], *kwargs.values()):
        if isinstance(given, torch.Tensor):
            return given.device.type
        if isinstance(given, (str, torch.device)):
            return torch.device(given).type
    return None


def _answer_from_host(scheduler, methods, tables=()):
    """Run these methods of a scheduler with `_HostCopies`. tables: attributes that are read on the host."""

    def learn(copies, scheduler, method):
        for name in ("timesteps", *tables) if method == "set_timesteps" else ():
            copies.learn(getattr(scheduler, name, None))

    _around_methods(scheduler, methods, _HostCopies, then=learn)


def _numbers_from_host(pipe):
    """Inside, `torch.tensor([t])` in the pipeline's own code takes the host's copy of `t`; where there is
    none, as of `t / 1000`, the tensor is made on the device, where the pipeline sends it."""

    def tensor(torch, data, **kwargs):
        data = _HostCopies().elements(data)
        scalars = list(data) if isinstance(data, (list, tuple)) else []
        on_device = all(isinstance(each, torch.Tensor) and each.device.type != "cpu" for each in scalars)
        if scalars and on_device and set(kwargs) <= {"dtype", "device"}:
            return torch.stack([each.reshape(()) for each in scalars]).to(**kwargs)
        return torch.tensor(data, **kwargs)

    return _tensor_in_call(pipe, tensor)
