"""How an op runs on the simulated device.

`run` is where every op arrives. An op whose inputs are all known is computed on the inner CPU tensors; any
other has only its geometry inferred, once per distinct call (op, geometry of the tensors, other arguments with
their types), and remembered. Ops that need a value on the host, copy to or from it, or have a shape that
depends on data have a handler of their own (`handlers.py`, `copies.py`).
"""

from __future__ import annotations

from typing import Any

import torch

from .observer import OpSignature, TensorMeta
from .ops import Op, argument, scalars_of
from .session import QUIET, SESSION
from .tensor import (
    NAME,
    Cell,
    SimTensor,
    covers,
    extent,
    host_meta,
    inner_of,
    intern_meta,
    known,
    regeometry,
    restride,
    unknown,
)

UNKNOWN = 1
HOST = 2
META = 4
SIM = 8

LARGE = 1 << 26
"""Elements. Where weights are unknown, a larger result is not computed even if it could be."""

_ops: dict[Any, Op] = {}
_memo: dict[tuple, Entry] = {}
_seen: dict[tuple, OpSignature | None] = {}
_signatures: dict[tuple, OpSignature] = {}
_CPU = torch.device("cpu")
_UNSEEN: Any = object()


def op_of(func: Any) -> Op:
    """The description of an op overload."""
    op = _ops.get(func)
    if op is None:
        from .handlers import handler_for

        op = Op(func)
        op.handler = handler_for(op)
        _ops[func] = op
    return op


def run(func: Any, args: tuple, kwargs: dict[str, Any] | None) -> Any:
    """Run one op that involves the simulated device."""
    if kwargs is None:
        kwargs = {}
    op = _ops.get(func)
    if op is None:
        if not isinstance(func, torch._ops.OpOverload):
            from .higher_order import run_higher_order

            return run_higher_order(func, args, kwargs)
        op = op_of(func)
    if op.handler is not None:
        return op.handler(op, args, kwargs)
    return plain(op, args, kwargs)


def plain(op: Op, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An op whose result's shape depends on geometry only, and which leaves the host running."""
    SESSION.ops += 1
    key: list[Any] = [op]
    tensors: list[torch.Tensor] = []
    flags = scan(op, args, kwargs, key, tensors)
    if flags & HOST and flags & SIM and not op.host_ok:
        raise_mismatch(op, args, kwargs)
    if flags & (UNKNOWN | META):
        return infer(op, args, kwargs, tensors, tuple(key))
    if SESSION.unknown and too_large(op, args, kwargs, tensors, key):
        return infer(op, args, kwargs, tensors, tuple(key))
    return compute(op, args, kwargs, tensors, key)


# --- arguments -----------------------------------------------------------------------------------------------


def scan(op: Op, args: tuple, kwargs: dict[str, Any], key: list, tensors: list) -> int:
    """Collect the tensors and the memo key of a call. Returns the flags UNKNOWN, HOST, META, SIM."""
    flags = 0
    insensitive = op.pointwise
    for a in args:
        kind = type(a)
        if kind is SimTensor:
            key.append(a._meta)
            tensors.append(a)
            flags |= SIM if a._cell.known else SIM | UNKNOWN
        elif kind is int:
            key.append(int if insensitive else a)
        elif a is None or a is True or a is False:
            # True == 1: an object of its own each, so that 1 and True differ.
            key.append(_SINGLETONS[a])
        elif kind is float:
            key.append(float if insensitive else (float, a))
        else:
            flags |= _scan_other(a, kind, key, tensors)
    for name, a in kwargs.items():
        kind = type(a)
        key.append(name)
        if kind is SimTensor:
            key.append(a._meta)
            tensors.append(a)
            flags |= SIM if a._cell.known else SIM | UNKNOWN
        elif a is None or a is True or a is False:
            key.append(_SINGLETONS[a])
        elif insensitive and (kind is int or kind is float):
            key.append(kind)
        else:
            flags |= _scan_other(a, kind, key, tensors)
    return flags


_SINGLETONS = {None: ("None",), True: ("True",), False: ("False",)}


def _scan_other(a: Any, kind: type, key: list, tensors: list) -> int:
    if kind is list or kind is tuple:
        flags = 0
        key.append(len(a))
        for b in a:
            kind = type(b)
            if kind is SimTensor:
                key.append(b._meta)
                tensors.append(b)
                flags |= SIM if b._cell.known else SIM | UNKNOWN
            elif kind is int:
                key.append(b)
            elif b is None or b is True or b is False:
                key.append(_SINGLETONS[b])
            else:
                flags |= _scan_other(b, kind, key, tensors)
        return flags
    if kind is int or kind is float or kind is complex:
        key.append((kind, a))
        return 0
    if isinstance(a, torch.Tensor):
        tensors.append(a)
        if a.device.type == "cpu":
            key.append(host_meta(a))
            return HOST if a.dim() else 0
        key.append((a.shape, a.dtype))
        return META
    if isinstance(a, torch.Generator):
        key.append(torch._C.Generator)
        return 0
    key.append(a)
    return 0


def mapped(a: Any, f: Any) -> Any:
    """`a` with every tensor in it replaced."""
    if isinstance(a, torch.Tensor):
        return f(a)
    if type(a) is list or type(a) is tuple:
        return [mapped(b, f) for b in a]
    return a


def on_host(t: torch.Tensor) -> torch.Tensor:
    """The CPU tensor with the values of `t`."""
    if type(t) is SimTensor:
        return inner_of(t)
    return t


def raise_mismatch(op: Op, args: tuple, kwargs: dict[str, Any]) -> None:
    """The error that CUDA gives for tensors on two devices."""
    flat: list[tuple[str, torch.Tensor]] = []
    for name, a in [*zip(op.names, args, strict=False), *kwargs.items()]:
        if isinstance(a, torch.Tensor):
            flat.append((name, a))
        elif isinstance(a, (list, tuple)):
            flat += [(name, b) for b in a if isinstance(b, torch.Tensor)]
    if not op.pointwise:
        for name, t in flat:
            if type(t) is not SimTensor and t.dim():
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but got {name} is on cpu, different from "
                    f"other tensors on {NAME}:0 (when checking argument in method {op.base})"
                )
    first, second = (
        (f"{NAME}:0", "cpu") if flat and type(flat[0][1]) is SimTensor else ("cpu", f"{NAME}:0")
    )
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {first} and {second}!"
    )


# --- known values ---------------------------------------------------------------------------------------------


def compute(op: Op, args: tuple, kwargs: dict[str, Any], tensors: list, key: list | None) -> Any:
    """Run the op on the CPU and wrap what comes out. key: None if the result's shape depends on values."""
    host_args = [_host_argument(a) for a in args]
    if kwargs:
        host_kwargs = {n: _host_argument(a) for n, a in kwargs.items()}
    else:
        host_kwargs = kwargs
    out = op.func(*host_args, **host_kwargs)
    if op.inplace_view:
        target = argument(args, kwargs, (0, op.names[0]))
        restride(
            target, intern_meta(out.shape, out.stride(), out.dtype, out.storage_offset()), out.detach()
        )
        return target
    if op.device_at is not None:
        device = argument(args, kwargs, op.device_at)
        if device is not None and torch.device(device).type != NAME:
            return out
    fresh: list[TensorMeta] = []
    result = _wrap_result(out, op, args, kwargs, tensors, fresh)
    if SESSION.on_op is not None and not QUIET.depth:
        if key is None:
            tell_op(make_signature(op, args, kwargs, tensors, fresh))
            return result
        full = tuple(key)
        signature = _seen.get(full, _UNSEEN)
        if signature is _UNSEEN:
            signature = make_signature(op, args, kwargs, tensors, fresh)
            _seen[full] = signature
        if signature is not None:
            SESSION.on_op(signature)
    return result


def _host_argument(a: Any) -> Any:
    kind = type(a)
    if kind is SimTensor:
        return inner_of(a)
    if kind is torch.device:
        return _CPU if a.type == NAME else a
    if kind is list or kind is tuple:
        return [_host_argument(b) for b in a]
    return a


def _wrap_result(
    out: Any, op: Op, args: tuple, kwargs: dict[str, Any], tensors: list, fresh: list[TensorMeta]
) -> Any:
    if isinstance(out, torch.Tensor):
        place = op.returns[0] if op.returns else None
        if place is not None:
            return _written(out, op, args, kwargs, place)
        return _wrap_one(out, tensors, fresh)
    if type(out) is tuple or type(out) is list:
        results = []
        for n, o in enumerate(out):
            place = op.returns[n] if n < len(op.returns) else None
            if place is not None and isinstance(o, torch.Tensor):
                results.append(_written(o, op, args, kwargs, place))
            elif isinstance(o, torch.Tensor):
                results.append(o if n in op.host_results else _wrap_one(o, tensors, fresh))
            elif type(o) is tuple or type(o) is list:
                results.append(type(o)([_wrap_one(x, tensors, fresh) for x in o]))
            else:
                results.append(o)
        return type(out)(results)
    return out


def _written(out: torch.Tensor, op: Op, args: tuple, kwargs: dict[str, Any], place: tuple[int, str]) -> Any:
    target = argument(args, kwargs, place)
    if type(target) is SimTensor and target.shape != out.shape:
        regeometry(target, known(out.detach()))
    return target


def _wrap_one(out: torch.Tensor, tensors: list, fresh: list[TensorMeta]) -> torch.Tensor:
    if type(out) is SimTensor:
        return out
    storage = out.untyped_storage()._cdata
    for t in tensors:
        if type(t) is SimTensor:
            inner = t._inner
            if inner is not None and inner.untyped_storage()._cdata == storage:
                return known(out, t._cell)
    result = known(out)
    fresh.append(result._meta)
    return result


def too_large(op: Op, args: tuple, kwargs: dict[str, Any], tensors: list, key: list) -> bool:
    """Whether the result is too large to be worth computing (repeat, expand and outer products of masks)."""
    size = 1
    for t in tensors:
        size *= max(t.numel(), 1)
    if size <= LARGE and op.base not in ("repeat", "expand", "tile"):
        return False
    if op.writes or not tensors:
        return False
    try:
        entry = lookup(op, args, kwargs, tensors, tuple(key))
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return entry.fresh_numel > LARGE


# --- unknown values -------------------------------------------------------------------------------------------


class Entry:
    """What one distinct call returns: a result spec (see `_spec`) and what it tells the observer."""

    __slots__ = ("fresh_numel", "signature", "spec")

    def __init__(self, spec: tuple, signature: OpSignature | None, fresh_numel: int) -> None:
        self.spec = spec
        self.signature = signature
        self.fresh_numel = fresh_numel


def infer(op: Op, args: tuple, kwargs: dict[str, Any], tensors: list, key: tuple) -> Any:
    """The result of an op on unknown values: geometry only."""
    try:
        entry = _memo.get(key)
    except TypeError:
        entry = None
    if entry is None:
        entry = lookup(op, args, kwargs, tensors, key)
    else:
        SESSION.hits += 1
    if op.writes:
        for place in op.writes:
            target = argument(args, kwargs, place)
            if type(target) is SimTensor:
                target._cell.taint()
            elif type(target) is list or type(target) is tuple:
                for b in target:
                    if type(b) is SimTensor:
                        b._cell.taint()
    if entry.signature is not None and SESSION.on_op is not None and not QUIET.depth:
        SESSION.on_op(entry.signature)
    spec = entry.spec
    if spec[0] is _TENSOR:
        alias = spec[2]
        return unknown(spec[1], None if alias is None else tensors[alias]._cell)
    return _build(spec, op, args, kwargs, tensors)


def lookup(op: Op, args: tuple, kwargs: dict[str, Any], tensors: list, key: tuple) -> Entry:
    """The remembered entry of a call, made if it is new."""
    try:
        entry = _memo.get(key)
    except TypeError:
        entry = None
        key = ()
    if entry is not None:
        return entry
    SESSION.misses += 1
    stand_ins: dict[int, torch.Tensor] = {}
    if op.host_results or op.base in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        key = ()  # lengths and batch sizes are values on the host that shapes depend on

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
        spec: tuple = (_RESTRIDE, intern_meta(out.shape, out.stride(), out.dtype, out.storage_offset()))
        signature = None
    else:
        first = op.returns[0] if isinstance(out, torch.Tensor) and op.returns else None
        spec = _spec(out, op, places, fresh, first)
        signature = make_signature(op, args, kwargs, tensors, fresh)
    entry = Entry(spec, signature, sum(m.numel for m in fresh))
    if key:
        _memo[key] = entry
    return entry


_TENSOR = "tensor"
_WRITTEN = "written"
_SEQUENCE = "sequence"
_VALUE = "value"
_RESTRIDE = "restride"
_ON_HOST = "host"


def _spec(
    out: Any, op: Op, places: dict[int, int], fresh: list[TensorMeta], place: tuple[int, str] | None = None
) -> tuple:
    if isinstance(out, torch.Tensor):
        if place is not None:
            return (_WRITTEN, place, out.shape)
        meta = intern_meta(out.shape, out.stride(), out.dtype, out.storage_offset())
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


def _build(spec: tuple, op: Op, args: tuple, kwargs: dict[str, Any], tensors: list) -> Any:
    kind = spec[0]
    if kind is _TENSOR:
        alias = spec[2]
        return unknown(spec[1], None if alias is None else tensors[alias]._cell)
    if kind is _WRITTEN:
        target = argument(args, kwargs, spec[1])
        if type(target) is SimTensor and target.shape != spec[2]:
            meta = intern_meta(
                spec[2], torch.empty(spec[2], device="meta").stride(), target.dtype, 0
            )
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
    return base.as_strided(meta.shape, meta.stride, meta.offset)


def _meta_argument(a: Any, stand_in: Any) -> Any:
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


def infer_geometry(op: Op, args: list, kwargs: dict[str, Any]) -> Any:
    """The op on `meta` tensors; on zeros on the CPU where it has no meta kernel."""
    if op.base == "scaled_dot_product_attention":
        return _attention_geometry(*args[:3], args[3] if len(args) > 3 else kwargs.get("attn_mask"))
    try:
        return op.func(*args, **kwargs)
    except NotImplementedError:
        if not op.native:
            raise
    zeros = {"f": lambda t: torch.zeros(t.shape, dtype=t.dtype) if t.device.type == "meta" else t}
    host_args = [mapped(a, zeros["f"]) for a in args]
    host_kwargs = {n: mapped(a, zeros["f"]) for n, a in kwargs.items() if n != "device"}
    out = op.func(*host_args, **host_kwargs)
    return mapped(out, lambda t: t.to("meta")) if not isinstance(out, tuple) else tuple(
        o.to("meta") if isinstance(o, torch.Tensor) else o for o in out
    )


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


# --- signatures -----------------------------------------------------------------------------------------------


def make_signature(
    op: Op, args: tuple, kwargs: dict[str, Any], tensors: list, fresh: list[TensorMeta]
) -> OpSignature | None:
    """The signature of a call, or None if it launches nothing on the device."""
    if not op.launches:
        return None
    outputs = [m for m in fresh if m.numel]
    if not op.inplace_view:
        for place in op.writes:
            target = argument(args, kwargs, place)
            for t in target if isinstance(target, (list, tuple)) else (target,):
                if type(t) is SimTensor and t._meta.numel:
                    outputs.append(t._meta)
    if not outputs:
        return None
    inputs = tuple(t._meta if type(t) is SimTensor else host_meta(t) for t in tensors)
    scalars = {} if op.pointwise else scalars_of(op, args, kwargs)
    return signature_of(op, inputs, tuple(outputs), scalars)


def signature_of(
    op: Op,
    inputs: tuple[TensorMeta, ...],
    outputs: tuple[TensorMeta, ...],
    scalars: dict[str, Any],
    direction: str | None = None,
    nbytes: int = 0,
) -> OpSignature:
    """The one signature of that content."""
    key = (op.func, inputs, outputs, repr(scalars), direction, nbytes)
    signature = _signatures.get(key)
    if signature is None:
        signature = OpSignature(
            len(_signatures), op.name, op.func, inputs, outputs, scalars, direction, nbytes
        )
        _signatures[key] = signature
    return signature


def tell_op(signature: OpSignature | None) -> None:
    """Report one launch."""
    if signature is not None and SESSION.on_op is not None and not QUIET.depth:
        SESSION.on_op(signature)


def learn(t: SimTensor, values: torch.Tensor) -> bool:
    """Make all of an unknown storage known by overwriting it with `values`. False if `t` isn't all of it."""
    if not covers(t):
        return False
    fresh = torch.empty_strided(t._meta.shape, t._meta.stride, dtype=t.dtype, device="cpu")
    fresh.copy_(values)
    t._cell.learn(fresh.untyped_storage())
    t._inner = fresh
    t._epoch = t._cell.epoch
    return True


__all__ = ["Cell", "Entry", "compute", "infer", "learn", "op_of", "plain", "run", "scan", "tell_op"]
