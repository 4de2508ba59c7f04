"""Ops on unknown values: geometry only, inferred once per distinct call and remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from diffprof.devices.simulated.signatures import make_signature
from diffprof.gpu.families import family_of
from diffprof.gpu.operands import convolves_channels_last
from diffprof.gpu.signatures import OpSignature, TensorMeta

from .choices import follow, rewritten
from .ops import Op, argument
from .session import QUIET, SESSION
from .tensor import SimTensor, extent, intern_meta, meta_of, regeometry, restride, set_bits, unknown

_memo: dict[tuple, _Entry] = {}


class _Entry:
    """What one distinct call returns: a result spec (see `_spec`) and what it tells the observer."""

    __slots__ = ("fresh_numel", "signature", "spec")

    def __init__(self, spec: tuple, signature: OpSignature | None, fresh_numel: int) -> None:
        self.spec = spec
        self.signature = signature
        self.fresh_numel = fresh_numel


def infer(op: Op, args: tuple, kwargs: dict[str, object], tensors: list, key: tuple) -> object:
    """The result of an op on unknown values: geometry only."""
    try:
        entry = _memo.get(key)
    except TypeError:
        entry = None
    if entry is None:
        entry = lookup(op, args, kwargs, tensors, key)
    else:
        SESSION.hits += 1
    guesses = {}
    if op.writes:
        if SESSION.guessed:
            guesses = rewritten(op, args, kwargs, tensors)
        for place in op.writes:
            target = argument(args, kwargs, place)
            if type(target) is SimTensor:
                target._cell.taint()
            elif type(target) is list or type(target) is tuple:
                for b in target:
                    if type(b) is SimTensor:
                        b._cell.taint()
        for cell, guess in guesses.items():
            cell.guess = guess
    if entry.signature is not None and SESSION.on_op is not None and not QUIET.depth:
        SESSION.on_op(entry.signature)
    spec = entry.spec
    if spec[0] is _TENSOR:
        alias = spec[2]
        result: object = unknown(spec[1], None if alias is None else tensors[alias])
    else:
        result = _build(spec, op, args, kwargs, tensors)
    if SESSION.guessed or op.chooses is not None:
        follow(op, args, kwargs, tensors, result)
    return result


def lookup(op: Op, args: tuple, kwargs: dict[str, object], tensors: list, key: tuple) -> _Entry:
    """The remembered entry of a call, made if it is new."""
    try:
        entry = _memo.get(key)
    except TypeError:
        entry = None
        key = ()
    if entry is not None:
        return entry
    SESSION.misses += 1
    if key and (entry := _by_arithmetic(op, args, kwargs, tensors)) is not None:
        _memo[key] = entry
        return entry
    stand_ins: dict[int, torch.Tensor] = {}
    if op.host_results or op.base in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        key = ()  # lengths and batch sizes are values on the CPU that shapes depend on

    def stand_in(t: torch.Tensor) -> torch.Tensor:
        found = stand_ins.get(id(t))
        if found is None:
            found = stand_ins[id(t)] = t if not key and type(t) is not SimTensor else _meta_tensor(t)
        return found

    meta_args = [_meta_argument(a, stand_in) for a in args]
    meta_kwargs = {n: _meta_argument(a, stand_in) for n, a in kwargs.items()}
    with torch.no_grad():
        out = infer_geometry(op, meta_args, meta_kwargs)
    places: dict[int, int] = {}
    for n, t in enumerate(tensors):
        m = stand_ins.get(id(t))
        if m is not None and type(t) is SimTensor:
            places.setdefault(m.untyped_storage()._cdata, n)
    fresh: list[TensorMeta] = []
    if op.inplace_view:
        spec: tuple = (_RESTRIDE, meta_of(out))
        signature = None
    else:
        first = op.returns[0] if isinstance(out, torch.Tensor) and op.returns else None
        spec = _spec(out, op, places, fresh, first)
        signature = make_signature(op, args, kwargs, tensors, fresh)
    entry = _Entry(spec, signature, sum(m.numel for m in fresh))
    if key:
        _memo[key] = entry
    return entry


def _by_arithmetic(op: Op, args: tuple, kwargs: dict[str, object], tensors: list) -> _Entry | None:
    """Parts of a tensor, and parts that are filled: masks are written row by row, every row another call."""
    if kwargs or not args or type(args[0]) is not SimTensor or len(tensors) > 1:
        return None
    meta = args[0]._meta
    if op.func in _PARTS:
        part = _PARTS[op.func](meta, *args[1:])
        return None if part is None else _Entry((_TENSOR, part, 0), None, 0)
    if op.func in _FILLS:
        return _Entry((_WRITTEN, op.returns[0], meta.shape), make_signature(op, args, kwargs, tensors, []), 0)
    return None


def _selected(meta: TensorMeta, dim: Any, index: object) -> TensorMeta | None:
    """One index of a dimension; None for what is not there."""
    rank = len(meta.shape)
    if type(index) is not int or not -rank <= dim < rank:
        return None
    size, step = meta.shape[dim], meta.stride[dim]
    if not -size <= index < size:
        return None
    shape, stride = list(meta.shape), list(meta.stride)
    del shape[dim], stride[dim]
    offset = meta.offset + (index + size if index < 0 else index) * step
    return intern_meta(torch.Size(shape), tuple(stride), meta.dtype, offset, meta.device, meta.bits)


def _sliced(meta: TensorMeta, dim: Any = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    """A range of a dimension, with the bounds of a Python slice."""
    rank = len(meta.shape)
    if not all(type(each) is int or each is None for each in (start, end, step)) or not -rank <= dim < rank:
        return None
    begin, stop, by = slice(start, end, step).indices(meta.shape[dim])
    shape, stride = list(meta.shape), list(meta.stride)
    shape[dim], stride[dim] = max(0, -(-(stop - begin) // by)), stride[dim] * by
    offset = meta.offset + begin * meta.stride[dim]
    return intern_meta(torch.Size(shape), tuple(stride), meta.dtype, offset, meta.device, meta.bits)


_PARTS: dict[object, Callable[..., TensorMeta | None]] = {
    torch.ops.aten.select.int: _selected,
    torch.ops.aten.slice.Tensor: _sliced,
}
_FILLS = (torch.ops.aten.fill_.Scalar, torch.ops.aten.zero_.default)

_TENSOR = "tensor"
_WRITTEN = "written"
_SEQUENCE = "sequence"
_VALUE = "value"
_RESTRIDE = "restride"
_ON_HOST = "host"


def _spec(
    out: object, op: Op, places: dict[int, int], fresh: list[TensorMeta], place: tuple[int, str] | None = None
) -> tuple:
    if isinstance(out, torch.Tensor):
        if place is not None:
            return (_WRITTEN, place, out.shape)
        meta = meta_of(out)
        alias = places.get(out.untyped_storage()._cdata)
        if alias is None:
            fresh.append(meta)
        return (_TENSOR, meta, alias)
    if type(out) is tuple or type(out) is list:
        parts = []
        for n, o in enumerate(out):
            if n in op.host_results:
                parts.append((_ON_HOST, o.shape, o.dtype))
            else:
                parts.append(_spec(o, op, places, fresh, op.returns[n] if n < len(op.returns) else None))
        return (_SEQUENCE, type(out), tuple(parts))
    return (_VALUE, out)


def _build(spec: tuple, op: Op, args: tuple, kwargs: dict[str, Any], tensors: list) -> object:
    kind = spec[0]
    if kind is _TENSOR:
        alias = spec[2]
        return unknown(spec[1], None if alias is None else tensors[alias])
    if kind is _WRITTEN:
        target = argument(args, kwargs, spec[1])
        if type(target) is SimTensor and target.shape != spec[2]:
            meta = intern_meta(spec[2], torch.empty(spec[2], device="meta").stride(), target.dtype, 0)
            regeometry(target, unknown(meta))
        return target
    if kind is _SEQUENCE:
        return spec[1]([_build(s, op, args, kwargs, tensors) for s in spec[2]])
    if kind is _RESTRIDE:
        target = args[0] if args else kwargs[op.names[0]]
        restride(target, spec[1], None)
        return target
    if kind is _ON_HOST:
        return torch.zeros(spec[1], dtype=spec[2])
    return spec[1]


def _meta_tensor(t: torch.Tensor) -> torch.Tensor:
    """A tensor on `meta` of the same geometry."""
    if type(t) is not SimTensor:
        if t.dim() == 0 or t.device.type == "meta":
            return t  # CPU scalars mix with meta tensors as they do with device tensors
        if t.layout is not torch.strided:
            return t.to("meta")
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta")
    meta = t._meta
    if not meta.numel:
        # Some meta kernels resize; leave them room.
        return torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device="meta")
    base = torch.empty(extent(meta), dtype=meta.dtype, device="meta")
    return set_bits(base.as_strided(meta.shape, meta.stride, meta.offset), meta.bits)


def _meta_argument(a: Any, stand_in: Any) -> object:
    if isinstance(a, torch.Tensor):
        return stand_in(a)
    kind = type(a)
    if kind is list or kind is tuple:
        return [_meta_argument(b, stand_in) for b in a]
    if kind is torch.device:
        return torch.device("meta")
    if isinstance(a, torch.Generator):
        return None
    return a


def infer_geometry(op: Op, args: list, kwargs: dict[str, object]) -> object:
    """The op on `meta` tensors; on zeros on the CPU where it has no meta kernel."""
    if op.base == "scaled_dot_product_attention":
        q, k, v, *rest = args
        return _attention_geometry(q, k, v, rest[0] if rest else kwargs.get("attn_mask"))
    try:
        return laid_out(op, args, kwargs, op.func(*args, **kwargs))
    except NotImplementedError:
        if not op.native:
            raise
    zeros = {"f": lambda t: torch.zeros(t.shape, dtype=t.dtype) if t.device.type == "meta" else t}
    host_args = [mapped(a, zeros["f"]) for a in args]
    host_kwargs = {n: mapped(a, zeros["f"]) for n, a in kwargs.items() if n != "device"}
    out = op.func(*host_args, **host_kwargs)
    return (
        mapped(out, lambda t: t.to("meta"))
        if not isinstance(out, tuple)
        else tuple(o.to("meta") if isinstance(o, torch.Tensor) else o for o in out)
    )


_CONTIGUOUS = frozenset({"group_norm", "native_group_norm", "pixel_shuffle", "pixel_unshuffle"})
"""Ops whose CUDA kernels return a contiguous result whatever the input's order, where the CPU's keep it
(`native_group_norm` in aten/src/ATen/native/group_norm.cpp; `math_pixel_shuffle` in PixelShuffle.cpp)."""


def laid_out(op: Op, args: Sequence[object], kwargs: dict[str, object], out: Any) -> object:
    """A result computed elsewhere, in the order in memory that CUDA gives it.

    `meta` and the CPU decide it for themselves in some ops: convolutions take the weight's order into account
    on CUDA alone.
    """
    if op.base in _CONTIGUOUS:
        return (out[0].contiguous(), *out[1:]) if isinstance(out, tuple) else out.contiguous()
    if family_of(op.base) != "conv":
        return out
    given = dict(zip(op.names, args, strict=False)) | kwargs
    x, weight = (meta_of(given[name]) for name in ("input", "weight"))
    if convolves_channels_last(x, weight):
        order = torch.channels_last if out.dim() == 4 else torch.channels_last_3d
        return out.to(memory_format=order)
    return out.contiguous()


def _attention_geometry(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Result of the fused kernels, as their meta kernels in torch/_meta_registrations.py lay it out.

    Flash attention (half precision, no mask) follows the layout of q; the memory-efficient kernel writes
    (batch, sequence, heads, size), seen as (batch, heads, sequence, size).
    """
    if q.dim() != 4:
        return torch.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype, device="meta")
    flash = mask is None and q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] <= 256
    if flash and q.shape[-1] == v.shape[-1]:
        return torch.empty_like(q.transpose(1, 2)).transpose(1, 2)
    shape = (q.shape[0], q.shape[2], q.shape[1], v.shape[-1])
    return torch.empty(shape, dtype=q.dtype, device="meta").transpose(1, 2)


def mapped(a: Any, f: Any) -> object:
    """`a` with every tensor in it replaced."""
    if isinstance(a, torch.Tensor):
        return f(a)
    if type(a) is list or type(a) is tuple:
        return [mapped(b, f) for b in a]
    return a
