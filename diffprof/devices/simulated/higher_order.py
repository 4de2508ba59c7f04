"""Higher-order operators on the simulated device: flex attention."""

from __future__ import annotations

from typing import Any

import torch

from diffprof.errors import DiffprofError

from .dispatch import mapped, on_host
from .observer import OpSignature
from .session import QUIET, SESSION
from .tensor import SimTensor, intern_meta, known, unknown

_signatures: dict[tuple, OpSignature] = {}


def run_higher_order(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """An operator that takes functions. Raises DiffprofError for one that can't be simulated."""
    name = getattr(func, "name", lambda: str(func))()
    if name != "flex_attention":
        raise DiffprofError(
            f"The higher-order operator {name} can't run on the simulated device.",
            "Run the model eagerly (torch.compiler.set_stance('force_eager')), or scan it on a real device.",
        )
    if SESSION.on_opaque is not None and not QUIET.depth:
        SESSION.on_opaque(name)
    q, _, v = args[:3]
    shape = torch.Size((*q.shape[:-1], v.shape[-1]))
    if _all_known((args, kwargs)):
        out = func(*[mapped(a, on_host) for a in args], **{k: mapped(a, on_host) for k, a in kwargs.items()})
        return tuple(known(o) if isinstance(o, torch.Tensor) else o for o in out)
    like = torch.empty_like(torch.empty_strided(q.shape, q.stride(), device="meta"))
    stride = like.stride() if shape == q.shape else torch.empty(shape, device="meta").stride()
    rows = torch.Size(q.shape[:-1])
    row_stride = torch.empty(rows, device="meta").stride()
    return (
        unknown(intern_meta(shape, stride, q.dtype, 0)),
        unknown(intern_meta(rows, row_stride, torch.float32, 0)),
        unknown(intern_meta(rows, row_stride, torch.float32, 0)),
    )


def _all_known(a: Any) -> bool:
    if isinstance(a, SimTensor):
        return a._cell.known
    if isinstance(a, (list, tuple)):
        return all(_all_known(b) for b in a)
    if isinstance(a, dict):
        return all(_all_known(b) for b in a.values())
    return True
