"""Tensor methods that C++ would run behind the dispatcher: printing, copying, pickling, `tolist`."""

from __future__ import annotations

import copy

import torch

from .blocking import LIST_READ, PRINTED, SAVED
from .choices import assumption, guess_of
from .session import SESSION, may_assume, suspended, tell_blocking, tell_placeholder
from .tensor import _FIELDS, NAME, SimTensor, describe, inner_of, intern_meta, known, unknown


def show(t: SimTensor) -> str:
    """`repr(t)`: the values where known. Printing reads them, and is reported as a wait."""
    is_known = t._cell.known
    if SESSION.active:
        tell_blocking(
            PRINTED.kind,
            "Tensor.__repr__",
            PRINTED.reason,
            PRINTED.source,
            tuple(t.shape),
            t.dtype,
            nbytes=t._meta.nbytes,
            known=is_known,
        )
    text = describe(t)
    if is_known:
        text = repr(inner_of(t).detach())
        text = text.removesuffix(")") + f", device='{NAME}:0')"
    if isinstance(t, torch.nn.Parameter):
        return f"Parameter containing:\n{text}"
    return text


def to_list(t: SimTensor) -> object:
    """`t.tolist()`: one copy to the CPU."""
    is_known = t._cell.known
    tell_blocking(
        LIST_READ.kind,
        "Tensor.tolist",
        LIST_READ.reason,
        LIST_READ.source,
        tuple(t.shape),
        t.dtype,
        nbytes=t._meta.nbytes,
        known=is_known,
        assumed=None if is_known or SESSION.unknown_reads == "raise" else assumption(t, "zeros"),
        tensor=t,
    )
    if is_known:
        return inner_of(t).tolist()
    may_assume("Tensor.tolist", tuple(t.shape), t.dtype)
    tell_placeholder(t.shape, t.dtype, assumption(t, "zeros"))
    guess = guess_of(t)
    return (torch.zeros(t.shape, dtype=t.dtype) if guess is None else guess).tolist()


def duplicate(t: SimTensor, memo: dict) -> SimTensor:
    """`copy.deepcopy(t)`: a storage of its own, and the attributes that were set on it."""
    if not t.is_leaf:
        raise RuntimeError(
            "Only Tensors created explicitly by the user (graph leaves) support the deepcopy protocol at the "
            "moment."
        )
    with suspended(), torch.no_grad():
        if t._cell.known:
            inner = inner_of(t).detach()
            fresh = torch.empty_strided(inner.shape, inner.stride(), dtype=inner.dtype).copy_(inner)
            made = known(fresh, requires_grad=t.requires_grad)
        else:
            meta = t._meta
            made = unknown(intern_meta(meta.shape, meta.stride, meta.dtype, 0), requires_grad=t.requires_grad)
    if isinstance(t, torch.nn.Parameter):
        made._is_param = True  # type: ignore[attr-defined]
    memo[id(t)] = made
    for name, value in t.__dict__.items():
        if name not in _FIELDS:
            made.__dict__[name] = copy.deepcopy(value, memo)
    if t.grad is not None:
        made.grad = copy.deepcopy(t.grad, memo)
    return made


def pickled(t: SimTensor) -> tuple:
    """What pickle stores: the values on the CPU, or the geometry."""
    if SESSION.active:
        tell_blocking(
            SAVED.kind,
            "torch.save",
            SAVED.reason,
            SAVED.source,
            tuple(t.shape),
            t.dtype,
            nbytes=t._meta.nbytes,
            known=t._cell.known,
            tensor=t,
        )
    is_param = isinstance(t, torch.nn.Parameter)
    if t._cell.known:
        return restored, (inner_of(t).detach().clone(), is_param, t.requires_grad)
    meta = t._meta
    inner = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device="meta")
    return restored, (inner, is_param, t.requires_grad)


def restored(inner: torch.Tensor, is_param: bool, requires_grad: bool) -> SimTensor:
    """The tensor of a pickle."""
    from .backend import register

    register()
    if inner.device.type == "meta":
        t = unknown(intern_meta(inner.shape, inner.stride(), inner.dtype, 0), requires_grad=requires_grad)
    else:
        t = known(inner, requires_grad=requires_grad)
    if is_param:
        t._is_param = True  # type: ignore[attr-defined]
    return t
