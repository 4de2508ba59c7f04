"""Putting models on the simulated device: as they are, or with parameters of unknown values."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from diffprof.model.errors import UsageError

from .backend import register
from .heap import settled
from .session import suspended
from .tensor import _FIELDS, NAME, SimTensor, intern_meta, known, unknown

Values = Literal["known", "unknown"]


def place(thing: object, *, values: Values) -> Any:
    """Move a tensor, module, list of modules or pipeline to the simulated device, and return it. It tells
    no events but memory.

    values="unknown": parameters keep their geometry only (and free their memory); buffers stay known, so that
    control flow on them works. Modules on `meta` are taken with unknown values either way for parameters, and
    for buffers that were never computed.
    """
    register()
    if values not in ("known", "unknown"):
        raise UsageError(f"values={values!r}", "Say 'known' or 'unknown'.")
    with suspended(), torch.no_grad():
        if isinstance(thing, torch.Tensor):
            return _placed(thing, values == "unknown", thing.requires_grad)
        if isinstance(thing, torch.nn.Module):
            _place_module(thing, values == "unknown", {})
            return thing
        parts = _parts(thing)
        if parts is not None:
            memo: Memo = {}
            for part in parts:
                _place_module(part, values == "unknown", memo)
            return thing
    raise UsageError(
        f"A {type(thing).__name__} can't be placed on the simulated device.",
        "Give a tensor, a torch.nn.Module, a list of modules, or a diffusers pipeline.",
    )


def _parts(thing: object) -> list[torch.nn.Module] | None:
    """The modules of a list or of a pipeline; None for anything else."""
    held = getattr(thing, "components", None)
    several = thing if isinstance(thing, list) else held.values() if isinstance(held, dict) else None
    return None if several is None else [part for part in several if isinstance(part, torch.nn.Module)]


def _placed(t: torch.Tensor, forget: bool, requires_grad: bool) -> SimTensor:
    if type(t) is SimTensor:
        if forget and t._cell.known:
            meta = t._meta
            return unknown(intern_meta(meta.shape, meta.stride, meta.dtype, 0), requires_grad=requires_grad)
        return t
    if forget or t.device.type == "meta":
        return unknown(intern_meta(t.shape, t.stride(), t.dtype, 0), requires_grad=requires_grad)
    if t.device.type != "cpu":
        raise UsageError(f"A tensor on {t.device} can't be placed on {NAME}.", "Move it to the CPU first.")
    inner = torch.empty_strided(t.shape, t.stride(), dtype=t.dtype).copy_(t.detach())
    return known(inner, requires_grad=requires_grad)


Memo = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""By id, (tensor, what it became). It keeps the tensor too: an id is its own only while the tensor lives."""


def _place_module(root: torch.nn.Module, forget: bool, memo: Memo) -> None:
    """memo: what each tensor became, so that tied parameters stay tied, also between modules."""
    for module in root.modules():
        parameters = module._parameters
        for name, p in parameters.items():
            if p is None:
                continue
            _, new = memo.get(id(p), (None, None))
            if new is None:
                new = _placed(p, forget, p.requires_grad)
                if new is not p:
                    new._is_param = True  # type: ignore[attr-defined]
                    extra = {k: v for k, v in p.__dict__.items() if k not in _FIELDS}
                    if extra:
                        new.__dict__.update(extra)
                memo[id(p)] = p, new
            parameters[name] = new  # type: ignore[assignment]
        buffers = module._buffers
        for name, b in buffers.items():
            if b is None:
                continue
            _, new = memo.get(id(b), (None, None))
            if new is None:
                new = _placed(b, False, b.requires_grad)
                memo[id(b)] = b, new
            buffers[name] = new


class _Building(threading.local):
    depth = 0


_building = _Building()


@contextmanager
def empty_weights(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Modules built inside have parameters on the simulated device whose values are unknown.

    No memory is taken and nothing is initialised. What isn't made with `torch.empty` (buffers, tables) is
    computed on the CPU as always; `place` moves it. dtype: of the parameters, instead of the default one.
    """
    register()
    from .patches import Patches

    patches = Patches()
    original = torch.empty

    def empty(*size: object, **kwargs: object) -> torch.Tensor:
        if _building.depth == 0 or kwargs.get("device") not in (None, "cpu", torch.device("cpu")):
            return original(*size, **kwargs)
        made = original(*size, **{**kwargs, "device": "meta"})
        if not made.is_floating_point():
            return original(*size, **kwargs)
        wanted = kwargs.get("dtype") or dtype or made.dtype
        return unknown(intern_meta(made.shape, made.stride(), wanted, 0))

    _building.depth += 1
    try:
        patches.set(torch, "empty", empty)
        for name in _INITIALISERS:
            patches.set(torch.nn.init, name, _skip)
        _skip_library_initialisers(patches)
        with suspended(), settled():
            yield
    finally:
        patches.undo()
        _building.depth -= 1


_INITIALISERS = tuple(name for name in vars(torch.nn.init) if name.endswith("_") and not name.startswith("_"))


def _skip(tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    return tensor


def _skip_library_initialisers(patches: Any) -> None:
    """transformers keeps its own references to the initialisers, and walks all modules to apply them."""
    import sys

    module = sys.modules.get("transformers.initialization")
    table = getattr(module, "TORCH_INIT_FUNCTIONS", None)
    if module is None or not isinstance(table, dict):
        return
    patches.set(module, "TORCH_INIT_FUNCTIONS", dict.fromkeys(table, _skip))
