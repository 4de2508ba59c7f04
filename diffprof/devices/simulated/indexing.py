"""Indexing: masks are counted on the device, CPU indices are uploaded, one number under a mask is a fill."""

from __future__ import annotations

from typing import Any

import torch

from diffprof.devices.simulated.signatures import make_signature, tell_op

from . import copies
from .blocking import ASSIGNS_ON_DEVICE, INDEX_UPLOAD, VALUE_UPLOAD, WAITS, Wait
from .choices import assumption, guess_of
from .dispatch import SIM, UNKNOWN, compute, plain, scan
from .inference import infer
from .ops import Op
from .reads import assumable, read_scalar, tell_wait
from .session import SESSION, may_assume, suspended
from .tensor import NAME, SimTensor, inner_of, intern_meta, known, unknown


def index(op: Op, args: tuple, kwargs: dict[str, object]) -> Any:
    """`x[indices]`: a mask on the device is counted first, an index on the CPU is uploaded first."""
    x, indices = args[0], args[1]
    if type(x) is not SimTensor:
        _refuse_device_index()
    plan, unknown_mask = _indices(op, x, indices, WAITS["index"])
    if plan is None:
        return plain(op, args, kwargs)
    if unknown_mask is not None:
        may_assume(op.name, tuple(unknown_mask.shape), unknown_mask.dtype)
    return plain(op, (x, plan, *args[2:]), kwargs)


def _refuse_device_index() -> None:
    raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")


def _indices(
    op: Op, x: SimTensor, indices: Any, mask_wait: Wait | None
) -> tuple[list | None, SimTensor | None]:
    """Report what the indices cost. Returns them with masks as integers, and the mask that isn't known."""
    plan: list[object] = []
    unknown_mask = None
    masks = False
    for i in indices:
        if i is None:
            plan.append(None)
            continue
        on_device = type(i) is SimTensor
        if i.dtype is torch.bool or i.dtype is torch.uint8:
            masks = True
            if on_device:
                assumed = None
                host = inner_of(i) if i._cell.known else guess_of(i)
                if not i._cell.known:
                    unknown_mask = i
                    assumed = assumable(assumption(i, "every element selected"))
                if host is None:
                    host = torch.ones(i.shape, dtype=torch.bool)
                if mask_wait is not None:
                    tell_wait(op, mask_wait, i, i._cell.known, assumed)
            else:
                host = i
                _upload_index(op, i)
            plan += [known(y) for y in host.bool().nonzero(as_tuple=True)]
        else:
            if not on_device and i.device.type == "cpu":
                _upload_index(op, i)
            plan.append(i)
    return (plan if masks else None), unknown_mask


def _upload_index(op: Op, i: torch.Tensor) -> None:
    copies.tell_upload(op, i, intern_meta(i.shape, i.stride(), i.dtype, 0), False, INDEX_UPLOAD)


def index_put(op: Op, args: tuple, kwargs: dict[str, object]) -> object:
    """`x[indices] = values`: a mask with one CPU number is a masked fill, which doesn't wait."""
    x, indices, values = args[0], args[1], args[2]
    if type(x) is not SimTensor:
        tensors: list[object] = []
        flags = scan(op, args, kwargs, [], tensors)
        if any(type(i) is SimTensor for i in indices if i is not None):
            _refuse_device_index()
        if flags & SIM:  # a device value for a CPU tensor
            if values.dim() == 0:
                values = torch.tensor(
                    read_scalar(values, op.name, WAITS["_local_scalar_dense"]), dtype=values.dtype
                )
                return op.func(x, indices, values, *args[3:], **kwargs)
            raise RuntimeError(
                f"expected self and values to be on the same device, but got {x.device} and {NAME}:0"
            )
    accumulate = bool(args[3] if len(args) > 3 else kwargs.get("accumulate", False))
    on_device = type(values) is SimTensor
    number = values.numel() == 1 and (not on_device or values._cell.scalar) and not accumulate
    masked_fill = number and _single_mask(indices)
    if not on_device and values.dim() and not masked_fill:
        raise RuntimeError(
            f"expected self and values to be on the same device, but got {NAME}:0 and {values.device}"
        )
    if not on_device and values.dim() == 0 and not masked_fill:
        copies.tell_upload(
            op, values, intern_meta(values.shape, values.stride(), values.dtype, 0), False, VALUE_UPLOAD
        )
    if on_device and number and not masked_fill and not ASSIGNS_ON_DEVICE:
        copies.report(op, VALUE_UPLOAD, values._meta, tensor=values)
    plan, _ = _indices(op, x, indices, None if masked_fill else WAITS["index_put_"])
    SESSION.ops += 1
    tensors = []
    key: list[object] = [op]
    flags = scan(op, args, kwargs, key, tensors)
    if not flags & UNKNOWN:
        return compute(op, args, kwargs, tensors, key)
    if plan is None:
        return infer(op, args, kwargs, tensors, tuple(key))
    # With a mask the geometry of the result is that of x, whatever is selected.
    signature = make_signature(op, args, kwargs, tensors, [] if op.writes else [x._meta])
    tell_op(signature)
    if op.writes:
        x._cell.taint()
        return x
    return unknown(intern_meta(x.shape, torch.empty_like(x, device="meta").stride(), x.dtype, 0))


def assigned_index(x: SimTensor, index: object, value: object) -> object:
    """The index of `x[index] = value`, with every 0-d one that CUDA leaves on the device as one element.

    C++ knows that case for CUDA alone, and would read the index here. One value is assigned, so an index of
    shape (1,) selects the same elements. The conditions are those of TensorIndexing.h:
    allowsScalarIndexOnDevice (value) and canKeepScalarIndexOnDevice (index).
    """
    if isinstance(value, torch.Tensor) and not (
        type(value) is SimTensor and not value.dim() and value.dtype is x.dtype and value._cell is not x._cell
    ):
        return index
    if type(index) is tuple:
        return tuple(_left_on_device(x, i) for i in index)
    return _left_on_device(x, index)


def _left_on_device(x: SimTensor, i: object) -> object:
    if type(i) is not SimTensor or i.dim() or i.dtype not in (torch.int64, torch.int32):
        return i
    if i._cell is x._cell or x.dtype in (torch.uint16, torch.uint32, torch.uint64):
        return i
    with suspended():
        return i.view(1)


def _single_mask(indices: Any) -> bool:
    """The condition of canDispatchToMaskedFill: one mask on the device, and otherwise full slices."""
    given = [i for i in indices if i is not None]
    return len(given) == 1 and given[0].dtype in (torch.bool, torch.uint8) and type(given[0]) is SimTensor
