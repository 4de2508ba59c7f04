"""Flex attention on the simulated device: the one operator that takes functions and is run here."""

from __future__ import annotations

import importlib
from functools import cache

import torch

from diffprof.devices.simulated.signatures import make_meta_op, tell_op

from .session import QUIET, SESSION, suspended
from .tensor import SimTensor, intern_meta, unknown


@cache
def register_flex_attention() -> None:
    """Tell the operator how it runs on the simulated tensor."""
    operators = importlib.import_module("torch._higher_order_ops.flex_attention")
    operators.flex_attention.py_impl(SimTensor)(flex_attention)


def flex_attention(*args: object, **kwargs: object) -> object:
    """(out, logsumexp, maximum) of the operator. Its mask and score functions can't be seen inside."""
    if SESSION.on_opaque is not None and not QUIET.depth:
        SESSION.on_opaque("flex_attention")
    SESSION.ops += 1
    q, k, v = args[:3]
    out = _computed(args, kwargs) if _all_known((args, kwargs)) else _inferred(q, v)
    operator = importlib.import_module("torch._higher_order_ops.flex_attention").flex_attention
    tell_op(make_meta_op(operator, "flex_attention", (q, k, v), out[:1]))
    return out


def _computed(args: tuple, kwargs: dict[str, object]) -> tuple:
    """The dense form, in ordinary ops of the device: the functions close over device tensors."""
    operators = importlib.import_module("torch._higher_order_ops.flex_attention")
    with suspended():
        return operators.sdpa_dense(*args, **kwargs)


def _inferred(q: torch.Tensor, v: torch.Tensor) -> tuple:
    shape = torch.Size((*q.shape[:-1], v.shape[-1]))
    like = torch.empty_like(torch.empty_strided(q.shape, q.stride(), device="meta"))
    stride = like.stride() if shape == q.shape else torch.empty(shape, device="meta").stride()
    rows = torch.Size(q.shape[:-1])
    row = intern_meta(rows, torch.empty(rows, device="meta").stride(), torch.float32, 0)
    return unknown(intern_meta(shape, stride, q.dtype, 0)), unknown(row), unknown(row)


def _all_known(a: object) -> bool:
    if isinstance(a, SimTensor):
        return a._cell.known
    if isinstance(a, (list, tuple)):
        return all(_all_known(b) for b in a)
    if isinstance(a, dict):
        return all(_all_known(b) for b in a.values())
    return True
