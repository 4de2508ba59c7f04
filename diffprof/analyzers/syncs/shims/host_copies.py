"""Reads of what the CPU itself has uploaded, answered by the CPU."""

import functools
import re
import threading

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from diffprof.analyzers.syncs.shims.mode_scope import _around_methods, _in_call, _in_parts, _PushedMode


class _Known(threading.local):
    """Device tensors that the CPU has the values of: address of their memory -> tensor -> (the CPU's copy,
    the version that it is a copy of)."""

    def __init__(self):
        self.tensors = {}


_known = _Known()

_UNKNOWN = object()
_LARGEST = 65536  # Elements: a table of timesteps, a mask, not an image.
_KINDS = {
    "read": "__(bool|int|float|complex|index|format|contains)__|item|tolist|equal|is_nonzero",
    "convert": "to|cpu|cuda|long|int|float|double|half|bfloat16|bool|type|type_as",
    # Correctly rounded, or whole numbers. Not division: CUDA may round it otherwise.
    "exact": "(__)?(r?add|r?sub|r?mul|neg|abs|floor|ceil|argmin|argmax|eq|ne|lt|le|gt|ge|and|or|xor|invert"
    "|(logical|bitwise)_(and|or|xor|not)|clone|any|all|max|min|amax|amin|maximum|minimum|clamp"
    "|count_nonzero"
    "|cat|concat|stack|flip|roll|contiguous|where|masked_fill|gather|index_select|tril|triu|pad"
    "|(zeros|ones|full)_like)(?(1)__)",
    "whole": "sum|cumsum",
    "shaped": "reshape|view|expand|repeat|tile|unflatten|new_(zeros|ones|full)",
    "view": "(un)?squeeze|flatten|detach|select|narrow|expand_as|view_as|transpose|permute|t",
    "made": "zeros|ones|full|eye|arange|empty",
    "tensor": "tensor|as_tensor",
    "getitem": "__getitem__",
    "setitem": "__setitem__",
    "filled": "fill_|zero_|masked_fill_",
    "nonzero": "nonzero",
    "write": r"\w*[^_]_|__i(add|sub|mul|truediv|floordiv|mod|and|or|xor)__",
}


@functools.cache
def _kind(name):
    return next((kind for kind, names in _KINDS.items() if re.fullmatch(names, name)), None)


class _HostCopies(_PushedMode):
    """Remembers what is uploaded (timesteps, masks, sizes) and answers reads of it without asking the device.

    `if t > 0`, `table[t]`, `x[mask]` and `.item()` make the CPU wait until the device has done all its work,
    for numbers that the CPU had sent there. Here the device computes what it always computes, with the same
    tensors; the CPU computes along what is exact on both sides, and reads its own copy. What it does not
    know is read from the device as before. Results are bit-identical.
    """

    def __init__(self, sees_writes=True):
        """sees_writes: no code writes these tensors in place while it does not stand. Tensors of inference
        mode do not tell that they were written."""
        super().__init__()
        self.sees_writes = sees_writes

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():
            return func(*args, **kwargs)
        kind = _kind(getattr(func, "__name__", ""))
        if kwargs.get("out") is not None or kwargs.get("inplace") or (kind == "filled" and not args):
            kind = "write"
        if kind is None:
            return func(*args, **kwargs)
        with torch._C.DisableTorchFunction():  # What is done here is nobody else's business.
            answer, args = self.answer(kind, func, args, kwargs)
            written = _host((args, kwargs)) if kind in ("setitem", "filled") else _UNKNOWN
        if answer is not _UNKNOWN:
            return answer
        result = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            if kind in ("setitem", "filled"):
                self.written(func, args[0], written)
            elif kind == "write":
                for tensor in _tensors((args[:1], kwargs)):
                    self.written(func, tensor, _UNKNOWN)
            elif _on_device(result) and result.numel() <= _LARGEST:
                self.follow(kind, func, args, kwargs, result)
        return result

    def answer(self, kind, func, args, kwargs):
        """(the result if the CPU knows it, else `_UNKNOWN`; arguments that need no answer of the device)"""
        to_host = kind == "convert" and _target(func, args, kwargs) == "cpu"
        if (kind == "read" or to_host) and any(map(_on_device, args)):
            if (known := _host(args)) is not _UNKNOWN:
                return (func(*known, **kwargs).clone() if to_host else func(*known, **kwargs)), args
        elif kind == "nonzero" and args and _on_device(args[0]) and _host(args) is not _UNKNOWN:
            return self.nonzero(*args, **kwargs), args
        elif kind == "getitem":
            args = (args[0], self.index(args[0], args[1]))
        elif kind == "setitem":  # A number is filled in where the mask is set, without asking how often.
            args = (args[0], self.index(args[0], args[1], isinstance(args[2], torch.Tensor)), args[2])
        elif kind == "tensor" and args and isinstance(args[0], (list, tuple)):
            where = torch.device(kwargs.get("device") or "cpu").type
            args = (self.elements(args[0]) if where == "cpu" else args[0], *args[1:])
            numbers = [each.reshape(()) for each in args[0] if _on_device(each) and each.numel() == 1]
            plain = set(kwargs) <= {"dtype", "device"} and (where != "cpu" or "device" not in kwargs)
            if plain and numbers and len(numbers) == len(args[0]):
                made = torch.stack(numbers)
                self.follow("exact", torch.stack, (numbers,), {}, made)
                moved = made.to(**kwargs)
                self.follow("convert", torch.Tensor.to, (made,), {}, moved)
                return moved, args
        elif kind == "shaped":
            args = (*args[:1], *self.sizes(args[1:]))
        elif kind == "made":
            args = self.sizes(args)
        return _UNKNOWN, args

    def follow(self, kind, func, args, kwargs, result):
        """Compute along on the CPU what the device has just computed, where that is the same."""
        if kind in ("made", "tensor"):
            rounded = func is torch.arange and result.is_floating_point()
            if not rounded and func is not torch.empty and not _tensors((args, kwargs)):
                self.remember(result, func(*args, **{**kwargs, "device": "cpu"}))
        elif args and _is_view(result, args[0]):
            if _host(result) is not _UNKNOWN:
                self.remember(result, _host(result))  # A view need not keep its base alive.
        elif kind == "convert":
            known = _host(args[0])
            if known is not _UNKNOWN:
                self.remember(result, known)
        elif kind != "view" and "device" not in kwargs:
            known = _host((args, kwargs))
            if known is not _UNKNOWN and (kind != "whole" or (args and _adds_up(known[0][0], result.dtype))):
                self.remember(result, func(*known[0], **known[1]))

    def remember(self, on_device, on_host):
        followed = self.sees_writes or not on_device.is_inference()
        memory = _memory(on_device) if followed and on_device.is_contiguous() else None
        if memory is not None and on_device.shape == on_host.shape:
            on_host = on_host.detach().to(on_device.dtype).contiguous().clone()
            if len(_known.tensors) > 64:
                _known.tensors = {memory: each for memory, each in _known.tensors.items() if len(each)}
            tensors = _known.tensors.setdefault(memory, WeakTensorKeyDictionary())
            tensors[on_device] = on_host, _version(on_device)

    def written(self, func, tensor, known):
        """A write in place: done to the CPU's copy too where all of it is known, else that is forgotten."""
        kept = _known.tensors.pop(_memory(tensor), {}) if _on_device(tensor) else {}
        if kept and known is not _UNKNOWN:
            (copy, *args), kwargs = known
            func(copy, *args, **kwargs)
            for each, (whole, _) in list(kept.items()):
                if whole.untyped_storage().data_ptr() == copy.untyped_storage().data_ptr():
                    tensors = _known.tensors.setdefault(_memory(tensor), WeakTensorKeyDictionary())
                    tensors[each] = whole, _version(each)

    def learn(self, table):
        """Read a table once, if it was not uploaded from a copy that is known."""
        if _on_device(table) and _host(table) is _UNKNOWN:
            self.remember(table, table.cpu())

    def nonzero(self, mask, **kwargs):
        """As many rows as the CPU counts, so that the device need not be asked."""
        if kwargs.get("as_tuple") and not mask.dim():
            mask = mask.unsqueeze(0)
        found = _host(mask).nonzero()
        rows = torch.nonzero_static(mask, size=len(found))
        self.remember(rows, found)
        if not kwargs.get("as_tuple"):
            return rows
        columns = rows.unbind(1)
        for column, on_host in zip(columns, found.unbind(1), strict=True):
            self.remember(column, on_host)
        return columns

    def index(self, table, index, masks=True):
        """Whole numbers that the CPU knows, as host numbers; the device's own where it gathers by itself. A
        mask as the rows that it selects."""
        if isinstance(index, tuple):
            parts = (self.index(table, part, masks) for part in index)
            return tuple(
                each
                for part, given in zip(parts, index, strict=True)
                for each in (part if type(part) is tuple and type(given) is not tuple else (part,))
            )
        if isinstance(index, slice):
            return slice(*self.sizes((index.start, index.stop, index.step)))
        if not isinstance(index, torch.Tensor) or index.is_floating_point():
            return index
        if index.dtype == torch.bool:
            mask = masks and index.dim() and _on_device(index) and _host(index) is not _UNKNOWN
            return self.nonzero(index, as_tuple=True) if mask else index
        if (index.dim() == 0 or table.device.type == "cpu") and _host(index) is not _UNKNOWN:
            return _host(index)
        return index

    def sizes(self, values):
        """With whole numbers of the device that are known, as Python numbers."""
        return tuple(
            type(each)(self.sizes(each))
            if type(each) in (tuple, list)
            else int(_host(each))
            if isinstance(each, torch.Tensor)
            and each.dim() == 0
            and each.dtype in (torch.int64, torch.int32)
            and _host(each) is not _UNKNOWN
            else each
            for each in values
        )

    def elements(self, data):
        if isinstance(data, (list, tuple)):
            return type(data)(self.elements(element) for element in data)
        number = isinstance(data, torch.Tensor) and data.dim() == 0
        return _host(data) if number and _host(data) is not _UNKNOWN else data


def _host(value):
    """The value with the CPU's copies in place of device tensors, or `_UNKNOWN`."""
    if isinstance(value, torch.Tensor):
        return value if value.device.type == "cpu" else _copy_of(value)
    if isinstance(value, slice):
        parts = _host([value.start, value.stop, value.step])
        return parts if parts is _UNKNOWN else slice(*parts)
    if isinstance(value, dict):
        parts = _host(list(value.values()))
        return parts if parts is _UNKNOWN else dict(zip(value, parts, strict=True))
    if isinstance(value, (list, tuple)):
        parts = []
        for each in value:
            parts.append(_host(each))
            if parts[-1] is _UNKNOWN:
                return _UNKNOWN
        return parts if isinstance(value, list) else tuple(parts)
    return value


def _copy_of(value):
    """A view is known by its place in a tensor that is known, as is `t` of `for t in timesteps`."""
    for tensor, (copy, version) in _known.tensors.get(_memory(value), {}).items():
        offset = value.storage_offset() - tensor.storage_offset()
        end = offset + sum((n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True))
        inside = value.numel() and 0 <= offset <= end < tensor.numel()
        alike = value.dtype == tensor.dtype and value.is_conj() == tensor.is_conj()
        if inside and alike and version == _version(value):
            return copy.as_strided(value.shape, value.stride(), offset)
    return _UNKNOWN


def _memory(tensor):
    """Device and address of the memory that a tensor is a view of; None where it has none of its own."""
    try:
        address = tensor.data_ptr()
        begin = address - tensor.storage_offset() * tensor.element_size()
    except RuntimeError:  # A tensor made of other tensors, a sparse one.
        return None
    return (tensor.device, begin) if address else None


def _is_view(result, of):
    return isinstance(of, torch.Tensor) and _memory(of) is not None and _memory(result) == _memory(of)


def _version(tensor):
    """Changes with every write in place. In inference mode there is none: `written` sees the writes."""
    return None if tensor.is_inference() else tensor._version


def _adds_up(values, dtype):
    """Whether their sum is the same in every order: of whole numbers, as in masks, that are small enough."""
    if not (values.is_floating_point() and dtype.is_floating_point):
        return True
    whole = bool((values == values.round()).all())
    return whole and float(values.double().abs().sum()) <= 1 / torch.finfo(dtype).eps


def _tensors(value):
    if isinstance(value, (tuple, list)):
        return [tensor for each in value for tensor in _tensors(each)]
    if isinstance(value, dict):
        return _tensors(list(value.values()))
    return [value] if isinstance(value, torch.Tensor) else []


def _on_device(value):
    return isinstance(value, torch.Tensor) and value.device.type != "cpu"


def _target(func, args, kwargs):
    """The device type that `.to` goes to, if it names one."""
    if func.__name__ in ("cpu", "cuda"):
        return func.__name__
    for given in (*args[1:], *kwargs.values()) if func.__name__ == "to" else ():
        if isinstance(given, torch.Tensor):
            return given.device.type
        if isinstance(given, (str, torch.device)):
            return torch.device(given).type
    return None


def _answer_from_host(scheduler, methods, tables=()):
    """Run these methods of a scheduler with `_HostCopies`. tables: attributes that are read on the CPU."""

    def learn(copies, scheduler, method):
        for name in ("timesteps", *tables) if method == "set_timesteps" else ():
            copies.learn(getattr(scheduler, name, None))

    _around_methods(scheduler, methods, _HostCopies, then=learn)


def _answer_from_host_in(model, parts):
    """Run the code of parts of a model with `_HostCopies`."""
    _in_parts(model, parts, functools.partial(_HostCopies, sees_writes=False))


def _answered_from_host(pipe):
    """Inside, the pipeline's own code runs with `_HostCopies`."""
    return _in_call(pipe, _HostCopies(sees_writes=False))
