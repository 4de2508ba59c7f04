"""How an op runs on the simulated device.

`run` is where every op arrives. An op whose inputs are all known is computed on the inner CPU tensors; any
other has only its geometry inferred, once per distinct call (op, geometry of the tensors, other arguments
with their types), and remembered. Ops that need a value on the CPU, copy to or from it, or have a shape that
depends on data have a handler of their own (`handlers.py`, `copies.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from diffprof.devices.simulated.signatures import make_signature
from diffprof.gpu.signatures import OpSignature, TensorMeta

from .inference import infer, laid_out, lookup
from .ops import Op, argument
from .session import QUIET, SESSION
from .tensor import (
    NAME,
    SimTensor,
    covers,
    host_meta,
    inner_of,
    known,
    meta_of,
    regeometry,
    restride,
    sources_of,
)

UNKNOWN = 1
HOST = 2
META = 4
SIM = 8

LARGE = 1 << 26
"""Elements. Where weights are unknown, a larger result is not computed even if it could be."""

DRAWN = 1 << 12
"""The same of what is drawn at random on the device, whose numbers are not the CPU's."""

_ops: dict[object, Op] = {}
_seen: dict[tuple, OpSignature | None] = {}
SUMMED = frozenset(
    {
        *(f"conv{way}{n}d" for way in ("", "_transpose") for n in (1, 2, 3)),
        *("convolution", "linear", "matmul", "mm", "addmm", "bmm", "baddbmm"),
    }
)
"""In float16 these are computed in float32, which GPUs add up in as well, and rounded: a CPU that has no
units for float16 takes a hundred times as long for a convolution, and up to 25 times for a product."""

_CPU = torch.device("cpu")
_UNSEEN: Any = object()


def op_of(func: torch._ops.OpOverload) -> Op:
    """The description of an op overload."""
    op = _ops.get(func)
    if op is None:
        from .handlers import handler_for

        op = Op(func)
        op.handler = handler_for(op)
        _ops[func] = op
    return op


def run(func: torch._ops.OpOverload, args: tuple, kwargs: dict[str, object] | None) -> Any:
    """Run one op that involves the simulated device."""
    if kwargs is None:
        kwargs = {}
    op = _ops.get(func)
    if op is None:
        op = op_of(func)
    if op.handler is not None:
        return op.handler(op, args, kwargs)
    return plain(op, args, kwargs)


def plain(op: Op, args: tuple, kwargs: dict[str, object]) -> Any:
    """An op whose result's shape depends on geometry only, and which leaves the CPU running."""
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


# --- arguments ------------------------------------------------------------------------------------


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


def on_host(t: torch.Tensor) -> torch.Tensor:
    """The CPU tensor with the values of `t`."""
    if type(t) is SimTensor:
        return inner_of(t)
    return t


def raise_mismatch(op: Op, args: tuple, kwargs: dict[str, object]) -> None:
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
                    f"Expected all tensors to be on the same device, but got {name} is on cpu, different "
                    f"from other tensors on {NAME}:0 (when checking argument in method {op.base})"
                )
    first, second = (f"{NAME}:0", "cpu") if flat and type(flat[0][1]) is SimTensor else ("cpu", f"{NAME}:0")
    raise RuntimeError(
        "Expected all tensors to be on the same device, but found at least two devices, "
        f"{first} and {second}!"
    )


# --- known values ---------------------------------------------------------------------------------


def compute(op: Op, args: tuple, kwargs: dict[str, object], tensors: list, key: list | None) -> object:
    """Run the op on the CPU and wrap what comes out. key: None if the result's shape depends on values."""
    host_args: Sequence[Any] = [_host_argument(a) for a in args]
    if kwargs:
        host_kwargs = {n: _host_argument(a) for n, a in kwargs.items()}
    else:
        host_kwargs = kwargs
    if SESSION.tf32 is not None:
        host_args = SESSION.tf32.cut(op.base, host_args)
    if op.base in SUMMED and any(t.dtype == torch.float16 for t in tensors):
        out = op.func(*map(_widened, host_args), **{n: _widened(a) for n, a in host_kwargs.items()}).half()
    else:
        out = op.func(*host_args, **host_kwargs)
    for place in op.writes:
        _overwritten(argument(args, kwargs, place))
    if SESSION.unknown:
        # Where all values are known they stay the CPU's, bit for bit, and so does their order in memory.
        out = laid_out(op, host_args, host_kwargs, out)
    if op.inplace_view:
        target = argument(args, kwargs, (0, op.names[0]))
        restride(target, meta_of(out), out.detach())
        return target
    if op.device_at is not None:
        device = argument(args, kwargs, op.device_at)
        if device is not None and torch.device(device).type != NAME:
            return out
    # Told before its result takes memory, as where values are not known; what is written into has its shape.
    result = _wrap_result(out, op, args, kwargs, tensors) if op.writes else None
    if SESSION.on_op is not None and not QUIET.depth:
        full = None if key is None else tuple(key)
        signature = _UNSEEN if full is None else _seen.get(full, _UNSEEN)
        if signature is _UNSEEN:
            signature = make_signature(op, args, kwargs, tensors, _fresh(out, op, tensors))
            if full is not None:
                _seen[full] = signature
        if signature is not None:
            SESSION.on_op(signature)
    return result if op.writes else _wrap_result(out, op, args, kwargs, tensors)


def _widened(a: object) -> object:
    return a.float() if isinstance(a, torch.Tensor) else a


def _overwritten(target: torch.Tensor | Sequence[torch.Tensor]) -> None:
    for each in target if isinstance(target, (list, tuple)) else (target,):
        if type(each) is SimTensor:
            each._cell.writes += 1


def _host_argument(a: Any) -> object:
    kind = type(a)
    if kind is SimTensor:
        return inner_of(a)
    if kind is torch.device:
        return _CPU if a.type == NAME else a
    if kind is list or kind is tuple:
        return [_host_argument(b) for b in a]
    return a


def _fresh(out: Any, op: Op, tensors: list) -> list[TensorMeta]:
    """Geometries of what an op returns in memory of its own."""
    found: list[object] = []
    several = type(out) is tuple or type(out) is list
    for n, each in enumerate(out if several else (out,)):
        written = n < len(op.returns) and op.returns[n] is not None
        if not written and not (several and n in op.host_results):
            found += each if type(each) is tuple or type(each) is list else (each,)
    own = [each for each in found if isinstance(each, torch.Tensor) and type(each) is not SimTensor]
    return [meta_of(each) for each in own if _base_of(each, tensors) is None]


def _wrap_result(out: object, op: Op, args: tuple, kwargs: dict[str, object], tensors: list) -> object:
    if isinstance(out, torch.Tensor):
        place = op.returns[0] if op.returns else None
        if place is not None:
            return _written(out, op, args, kwargs, place, tensors)
        return _wrap_one(out, tensors)
    if type(out) is tuple or type(out) is list:
        results = []
        for n, o in enumerate(out):
            place = op.returns[n] if n < len(op.returns) else None
            if place is not None and isinstance(o, torch.Tensor):
                results.append(_written(o, op, args, kwargs, place, tensors))
            elif isinstance(o, torch.Tensor):
                results.append(o if n in op.host_results else _wrap_one(o, tensors))
            elif type(o) is tuple or type(o) is list:
                results.append(type(o)([_wrap_one(x, tensors) for x in o]))
            else:
                results.append(o)
        return type(out)(results)
    return out


def _written(
    out: torch.Tensor,
    op: Op,
    args: tuple,
    kwargs: dict[str, object],
    place: tuple[int, str],
    tensors: list[torch.Tensor],
) -> Any:
    target = argument(args, kwargs, place)
    if type(target) is SimTensor:
        sources = sources_of(tensors)
        if target.shape != out.shape:
            regeometry(target, known(out.detach()))
        target._cell.sources = sources
    return target


def _wrap_one(out: torch.Tensor, tensors: list) -> torch.Tensor:
    if type(out) is SimTensor:
        return out
    base = _base_of(out, tensors)
    made = known(out, base)
    if base is None:
        made._cell.sources = sources_of(tensors)
    return made


def _base_of(out: torch.Tensor, tensors: list) -> SimTensor | None:
    """The argument whose memory a result is in."""
    storage = out.untyped_storage()._cdata
    for t in tensors:
        if type(t) is SimTensor:
            inner = t._inner
            if inner is not None and inner.untyped_storage()._cdata == storage:
                return t
    return None


def _is_whole(t: torch.Tensor) -> bool:
    return type(t) is SimTensor and covers(t)


def too_large(op: Op, args: tuple, kwargs: dict[str, object], tensors: list, key: list) -> bool:
    """Whether the result is too large to be worth computing (repeat, expand and outer products of masks, and
    random numbers)."""
    if op.draws:
        return any(t.numel() > DRAWN and (not op.writes or _is_whole(t)) for t in tensors)
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
