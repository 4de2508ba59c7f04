"""Which of several was chosen, where it is unknown: each of them equally often.

Which experts `topk` finds hangs on the values of a router's scores. Where an op chooses among `n` at least
`n` times, its indices are taken to run through all of them in turn. They stay unknown, and no wait changes;
their storage has a guess (`tensor.Guess`), and so has what is computed from guesses and known values alone:
one-hot masks, sorted indices, counts. A guess is looked at where the CPU must be given something: sizes and
values.
"""

from __future__ import annotations

from typing import Any

import torch

from .ops import Op, argument
from .session import SESSION
from .tensor import NAME, Cell, Guess, SimTensor, within

LARGEST = 1 << 22
"""Elements. There are no guesses of more."""


def guess_of(t: object) -> torch.Tensor | None:
    """A CPU tensor with what the values of `t` are taken to be, or None."""
    if type(t) is not SimTensor or t._cell.guess is None:
        return None
    return within(t._cell.guess.storage, t._meta)


def assumption(t: SimTensor, otherwise: str) -> str:
    """What is assumed of `t`, in words."""
    guess = t._cell.guess
    return otherwise if guess is None else f"indices spread evenly over {guess.among}"


def guessed_from(tensors: list) -> int:
    """Among how many was chosen what these hang on; 0 where any is unknown that there is no guess of."""
    among = 0
    for t in tensors:
        if type(t) is SimTensor and not t._cell.known:
            if t._cell.guess is None:
                return 0
            among = among or t._cell.guess.among
    return among


def give(t: SimTensor, values: torch.Tensor, among: int) -> None:
    """Guess the values of a tensor that has a storage of its own."""
    meta = t._meta
    if meta.numel > LARGEST or values.shape != meta.shape:
        return
    made = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype).copy_(values)
    t._cell.guess = Guess(made.untyped_storage(), among)
    SESSION.guessed = True


def rewritten(op: Op, args: tuple, kwargs: dict[str, object], tensors: list) -> dict[Cell, Guess]:
    """Guesses of the storages that an op is about to write into."""
    among = guessed_from(tensors)
    targets = [argument(args, kwargs, place) for place in op.writes]
    written = [t for t in targets if type(t) is SimTensor]
    if not among or len(written) < len(targets) or any(t._cell.size > 8 * LARGEST for t in written):
        return {}
    fresh = {t._cell: _storage(t._cell).clone() for t in written}
    if _on_host(op, args, kwargs, fresh) is None:
        return {}
    return {cell: Guess(storage, among) for cell, storage in fresh.items()}


def follow(op: Op, args: tuple, kwargs: dict[str, object], tensors: list, result: Any) -> None:
    """Give what an op returned in memory of its own its guess."""
    results = result if type(result) in (tuple, list) else (result,)
    cells = {t._cell for t in tensors if type(t) is SimTensor}
    fresh = [t for t in results if type(t) is SimTensor and t._cell not in cells]
    if not fresh or sum(t._meta.numel for t in fresh) > LARGEST:
        return
    if not (among := guessed_from(tensors)):
        if op.chooses is not None:
            _choose(op, args, kwargs, results[op.chooses])
        return
    found = _on_host(op, args, kwargs, {})
    values = found if type(found) in (tuple, list) else (found,)
    if len(values) == len(results):
        for t, value in zip(results, values, strict=True):
            if type(t) is SimTensor and isinstance(value, torch.Tensor) and t._cell not in cells:
                give(t, value, among)


def _choose(op: Op, args: tuple, kwargs: dict[str, object], chosen: SimTensor) -> None:
    """All indices of the dimension that was chosen from, in turn; none where there are more than choices."""
    scores = args[0]
    dim = argument(args, kwargs, (op.names.index("dim"), "dim")) if "dim" in op.names else None
    dim = -1 if dim is None else dim
    among = scores.shape[dim] if scores.dim() else 1
    if not 1 < among <= chosen.numel():
        return
    kept = chosen.dim() == scores.dim()
    shape = list(chosen.shape)
    if kept:
        shape.append(shape.pop(dim))
    values = (torch.arange(chosen.numel()) % among).view(shape)
    give(chosen, values.movedim(-1, dim) if kept else values, among)


def _on_host(op: Op, args: tuple, kwargs: dict[str, object], fresh: dict[Cell, object]) -> Any:
    """The op on guesses, on the CPU; None where it can't run. fresh: storages in place of those of cells."""
    if op.draws or op.host_results or not op.native:
        return None

    def stand_in(a: object) -> object:
        if type(a) is SimTensor:
            return within(fresh[a._cell] if a._cell in fresh else _storage(a._cell), a._meta)
        if type(a) is list or type(a) is tuple:
            return [stand_in(b) for b in a]
        return torch.device("cpu") if isinstance(a, torch.device) and a.type == NAME else a

    try:
        with torch.no_grad():
            return op.func(*map(stand_in, args), **{name: stand_in(a) for name, a in kwargs.items()})
    except (RuntimeError, NotImplementedError, IndexError, TypeError):
        return None  # the CPU has no such kernel, or something of the call is on `meta`


def _storage(cell: Cell) -> Any:
    return cell.storage if cell.guess is None else cell.guess.storage
