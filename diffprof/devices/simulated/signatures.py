"""What the observer is told of one launch: interned signatures."""

from __future__ import annotations

import torch

from diffprof.devices.simulated.ops import Op, argument, scalars_of
from diffprof.devices.simulated.session import QUIET, SESSION
from diffprof.devices.simulated.tensor import SimTensor, host_meta
from diffprof.gpu.signatures import OpSignature, TensorMeta

_signatures: dict[tuple, OpSignature] = {}


def make_signature(
    op: Op, args: tuple, kwargs: dict[str, object], tensors: list, fresh: list[TensorMeta]
) -> OpSignature | None:
    """The signature of a call, or None if it launches nothing on the device."""
    if not op.launches:
        return None
    outputs = [m for m in fresh if m.numel]
    if not op.inplace_view:
        for place in op.writes:
            target = argument(args, kwargs, place)
            written = target if isinstance(target, (list, tuple)) else (target,)
            outputs += [t._meta for t in written if type(t) is SimTensor and t._meta.numel]
    if not outputs:
        return None
    inputs = tuple(t._meta if type(t) is SimTensor else host_meta(t) for t in tensors)
    scalars = {} if op.pointwise else scalars_of(op, args, kwargs)
    return signature_of(op, inputs, tuple(outputs), scalars)


def signature_of(
    op: Op,
    inputs: tuple[TensorMeta, ...],
    outputs: tuple[TensorMeta, ...],
    scalars: dict[str, object],
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


def make_meta_op(func: torch._ops.OpOverload, name: str, inputs: tuple, outputs: tuple) -> OpSignature:
    """The signature of an operator that has no schema."""
    ins = tuple(t._meta for t in inputs if type(t) is SimTensor)
    outs = tuple(t._meta for t in outputs if type(t) is SimTensor)
    key = (func, ins, outs)
    signature = _signatures.get(key)
    if signature is None:
        signature = _signatures[key] = OpSignature(len(_signatures), name, func, ins, outs)
    return signature


def tell_op(signature: OpSignature | None) -> None:
    """Report one launch."""
    if signature is not None and SESSION.on_op is not None and not QUIET.depth:
        SESSION.on_op(signature)
