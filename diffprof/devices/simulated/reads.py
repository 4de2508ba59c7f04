"""Values that the CPU asks for, and how that is told."""

from __future__ import annotations

import torch

from .blocking import Wait
from .choices import guess_of
from .ops import Op
from .session import SESSION, may_assume, tell_blocking
from .tensor import SimTensor, inner_of


def tell_wait(
    op: Op, wait: Wait, t: torch.Tensor, is_known: bool, assumed: object = None, nbytes: int = 0
) -> None:
    tell_blocking(
        wait.kind,
        op.name,
        wait.reason,
        wait.source,
        tuple(t.shape),
        t.dtype,
        nbytes=nbytes,
        known=is_known,
        assumed=assumed,
        waits=wait.waits,
        tensor=t,
    )


def read_scalar(t: SimTensor, op: str, wait: Wait) -> object:
    """The value of a one-element tensor; reported as a wait. Unknown: its guess, or False or
    0, where allowed."""
    is_known = t._cell.known
    value: object
    if (host := inner_of(t) if is_known else guess_of(t)) is not None:
        value = host.item()
    else:
        value = False if t.dtype is torch.bool else (0.0 if t.dtype.is_floating_point else 0)
        if t.dtype.is_complex:
            value = 0j
    tell_blocking(
        wait.kind,
        op,
        wait.reason,
        wait.source,
        tuple(t.shape),
        t.dtype,
        nbytes=t.dtype.itemsize,
        known=is_known,
        assumed=None if is_known or SESSION.unknown_reads == "raise" else value,
        tensor=t,
    )
    if not is_known:
        may_assume(op, tuple(t.shape), t.dtype)
    return value


def assumable(value: object) -> object:
    return None if SESSION.unknown_reads == "raise" else value
