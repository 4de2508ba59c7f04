"""Calls of a model that would do what an earlier one did: told again, not run.

A forward is run once with arguments of one signature. If it left all as it was, the next and later are not
run while nothing has changed that it could read: their operations and waits are told to the observer again,
and tensors like those that were returned are made. One that left a change, as a cache that it filled, is run
again, and must then do what it did and leave all as it was. Values that are not known have no influence on
what is launched; known ones only where the CPU reads them: where it reads none, an argument may as well be
unknown, as the latents are from the second step on. Lists that it is given it may fill and empty: that is
done again as well.
"""

from __future__ import annotations

import functools
import random
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import gt
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import _pytree as pytree

from diffprof.gpu.memory_log import StorageNumbers

from . import autocast
from .choices import guess_of
from .held_state import HeldState, Unreadable, exactly, tensor_state, values_of
from .observer import Observer
from .session import QUIET, SESSION
from .tensor import GRANULE, NAME, Cell, SimTensor, inner_of, numbers, view

TRIES = 4
"""Forwards of one signature of which none repeats what the one before did, until all are run."""

SIGNATURES = 8
"""Signatures that are kept of a model."""

_PLAIN = (int, float, complex, str, bool, bytes, type(None), torch.dtype, torch.device, torch.Size)


class _Tensor(NamedTuple):
    """A tensor that was returned. cell: number of its storage among those of the result."""

    meta: Any
    cell: int


class _Found(NamedTuple):
    """A tensor that was at this place in the lists that were given."""

    place: int


class _Made(NamedTuple):
    """What a forward returned, and what it left in the lists that it was given, so that it can be made again.
    cells: (bytes, number) of the storages, numbers from the forward's first on."""

    leaves: tuple[Any, ...]
    spec: pytree.TreeSpec
    cells: tuple[tuple[int, int], ...]


class _Told(NamedTuple):
    """What happened in a forward. told: to the observer. kept, rise: bytes that it left allocated, and had
    allocated at most. ops: operations that were run. numbers: of storages that were given away. freed: which
    of the storages in its lists."""

    told: Any
    kept: int
    rise: int
    ops: int
    numbers: int
    freed: tuple[int, ...]


@dataclass
class _Forward:
    """What forwards of one signature do. known: which arguments were; values: theirs, None where they don't
    matter. state: as of the last that ran, once two agreed."""

    told: _Told
    made: _Made
    known: list[bool]
    values: list[bytes | None] | None
    tries: int = 0
    state: HeldState | None = None


@contextmanager
def replaying(
    modules: Iterable[torch.nn.Module],
    observer: Observer,
    is_last: Callable[[int], bool] = lambda calls: False,
) -> Iterator[None]:
    """Inside, forwards of these modules that repeat are told to the observer again instead of run. is_last:
    told how many forwards a module began, says whether no other is to be expected: it is not prepared for."""
    replays = [_Replay(module, observer, is_last) for module in modules]
    try:
        yield
    finally:
        for replay in replays:
            replay.close()


class _Replay:
    """The forwards of one module."""

    _running = False
    """Whether a forward is being recorded: models inside of it are part of it."""

    def __init__(self, module: torch.nn.Module, observer: Observer, is_last: Callable[[int], bool]) -> None:
        self._module = module
        self._observer = observer
        self._is_last = is_last
        self._calls = 0
        self._known: dict[object, _Forward] = {}
        self._given_up: set[object] = set()
        self._open = True
        self._own = vars(module).get("forward")
        self._forward = forward = module.forward

        @functools.wraps(forward)
        def called(*args: object, **kwargs: object) -> object:
            return self._called(args, kwargs)

        vars(module)["forward"] = self._placed = called

    def close(self) -> None:
        """Every forward runs from now on, whoever has a hold of it."""
        self._open = False
        self._known.clear()
        held = vars(self._module)
        if held.get("forward") is self._placed:
            del held["forward"]
            if self._own is not None:
                held["forward"] = self._own

    def _called(self, args: tuple[object, ...], kwargs: dict[str, object]) -> Any:
        if not self._open or _Replay._running or QUIET.depth or SESSION.capture is not None:
            return self._forward(*args, **kwargs)
        self._calls += 1
        try:
            key = _key(args, kwargs)
        except Unreadable:
            return self._forward(*args, **kwargs)
        if key in self._given_up:
            return self._forward(*args, **kwargs)
        known = self._known.get(key)
        if known is not None and self._repeats(known, args, kwargs):
            return self._tell(known, args, kwargs)
        if self._is_last(self._calls):
            return self._forward(*args, **kwargs)
        _Replay._running = True
        try:
            return self._run(key, args, kwargs)
        finally:
            _Replay._running = False

    @staticmethod
    def _repeats(known: _Forward, args: tuple[object, ...], kwargs: dict[str, object]) -> bool:
        """Whether to run it would do the same again."""
        if known.state is None or (known.values is not None and known.values != _known_values(args, kwargs)):
            return False
        if any(map(gt, _known(args, kwargs), known.known)):
            return False  # what is known now may be known of what it returns
        try:
            return known.state.unchanged()
        except Unreadable:
            return False

    # --- running --------------------------------------------------------------------------------------

    def _run(self, key: object, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        """Holds no argument: what a forward takes out of a list that it was given is freed."""
        before = self._known.pop(key, None)
        held = self._held(args, kwargs)
        lists = _Lists(args, kwargs)
        known = _known(args, kwargs)
        live, ops = SESSION.allocated, SESSION.ops
        peak, SESSION.peak = SESSION.peak, SESSION.allocated
        first = numbers(0)
        mark = self._observer.mark(StorageNumbers(first, lists.numbers))
        try:
            out = self._forward(*args, **kwargs)
        finally:
            given = self._observer.since(mark)
            rise, SESSION.peak = SESSION.peak - live, max(peak, SESSION.peak)
        made = _made((out, lists.lists), first, lists)
        kept = SESSION.allocated - live
        told = _Told(given, kept, rise, SESSION.ops - ops, numbers(0) - first, lists.freed())
        tries = 0 if before is None else before.tries + 1
        if (
            given is None
            or made is None
            or told.kept != sum(_rounded(size) for size, _ in made.cells) - lists.freed_bytes()
            or tries > TRIES
            or (lists.changed() and self._observer.reads(given))
        ):
            self._given_up.add(key)
            return out
        values = _known_values(args, kwargs) if self._observer.reads(given) else None
        found = self._known[key] = _Forward(told, made, known, values, tries)
        if held is not None and (before is None or self._agree(before, found)):
            found.state = held[0] if _same(held, args, kwargs, lists) else None
        if len(self._known) > SIGNATURES:
            del self._known[next(iter(self._known))]
        return out

    def _held(
        self, args: tuple[object, ...], kwargs: dict[str, object]
    ) -> tuple[HeldState, list[object]] | None:
        try:
            return HeldState(self._module), _around(args, kwargs)
        except Unreadable:
            return None

    def _agree(self, one: _Forward, other: _Forward) -> bool:
        return (
            one.made[1:] == other.made[1:]
            and all(map(_alike, one.made.leaves, other.made.leaves))
            and one.told[1:] == other.told[1:]
            and self._observer.alike(one.told.told, other.told.told)
        )

    # --- telling again --------------------------------------------------------------------------------

    def _tell(self, known: _Forward, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        told, made, lists = known.told, known.made, _lists(args, kwargs)
        given = pytree.tree_leaves(lists)
        first, owned = numbers(told.numbers), _cells(given)
        self._observer.again(told.told, StorageNumbers(first, tuple(cell.number for cell in owned)))
        for place in told.freed:
            owned[place].nbytes = 0  # its end was told
        SESSION.peak = max(SESSION.peak, SESSION.allocated + told.rise)
        SESSION.allocated += told.kept
        SESSION.ops += told.ops
        cells = [Cell.told(size, first + number) for size, number in made.cells]
        leaves = [
            view(leaf.meta, cells[leaf.cell])
            if type(leaf) is _Tensor
            else given[leaf.place]
            if type(leaf) is _Found
            else leaf
            for leaf in made.leaves
        ]
        out, filled = pytree.tree_unflatten(leaves, made.spec)
        for each, content in zip(lists, filled, strict=True):
            each[:] = content
        return out


class _Lists:
    """The lists that a forward is given, and what was in them. Keeps none of it alive."""

    def __init__(self, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        self.lists = _lists(args, kwargs)
        leaves = pytree.tree_leaves(self.lists)
        self._before = [weakref.ref(each) if isinstance(each, torch.Tensor) else each for each in leaves]
        self._states = [tensor_state(each) if isinstance(each, torch.Tensor) else None for each in leaves]
        cells = _cells(leaves)
        self._cells = [(weakref.ref(cell), cell.nbytes) for cell in cells]
        self.numbers = tuple(cell.number for cell in cells)

    def place(self, leaf: torch.Tensor) -> int | None:
        """Where it was."""
        places = (n for n, ref in enumerate(self._before) if type(ref) is weakref.ref and ref() is leaf)
        return next(places, None)

    def freed(self) -> tuple[int, ...]:
        """Which of the storages are gone."""
        return tuple(n for n, (cell, _) in enumerate(self._cells) if cell() is None)

    def freed_bytes(self) -> int:
        return sum(nbytes for cell, nbytes in self._cells if cell() is None)

    def changed(self) -> bool:
        """Whether anything else is in them now."""
        now = pytree.tree_leaves(self.lists)
        before = [each() if type(each) is weakref.ref else each for each in self._before]
        return len(now) != len(before) or any(
            one is not other and exactly(one) != exactly(other)
            for one, other in zip(now, before, strict=True)
        )

    def intact(self) -> bool:
        """Whether what was in them, and is still somewhere, is as it was. Raises Unreadable."""
        return all(
            type(ref) is not weakref.ref or (tensor := ref()) is None or tensor_state(tensor) == state
            for ref, state in zip(self._before, self._states, strict=True)
        )


def _lists(args: tuple[object, ...], kwargs: dict[str, object]) -> list[list[object]]:
    return [each for each in (*args, *kwargs.values()) if type(each) is list]


def _cells(leaves: Iterable[object]) -> list[Cell]:
    """Storages of tensors on the device, each once."""
    return list(dict.fromkeys(leaf._cell for leaf in leaves if type(leaf) is SimTensor))


def _made(out: object, first: int, lists: _Lists) -> _Made | None:
    """What was returned, if such a thing can be made again: values are unknown, or plain."""
    leaves, spec = pytree.tree_flatten(out)
    cells: dict[Cell, int] = {}
    found: list[object] = []
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor) and (place := lists.place(leaf)) is not None:
            found.append(_Found(place))
        elif type(leaf) is SimTensor and not (leaf._cell.known or leaf._cell.guess or leaf.requires_grad):
            found.append(_Tensor(leaf._meta, cells.setdefault(leaf._cell, len(cells))))
        elif isinstance(leaf, _PLAIN):
            found.append(leaf)
        else:
            return None
    return _Made(tuple(found), spec, tuple((cell.size, cell.number - first) for cell in cells))


def _alike(one: object, other: object) -> bool:
    """Of two things that were returned at one place."""
    return one == other if type(one) in (_Tensor, _Found) else exactly(one) == exactly(other)


def _rounded(size: int) -> int:
    return -(-size // GRANULE) * GRANULE


# --- what a forward is given ---------------------------------------------------------------------------


def _key(args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[object, ...]:
    """What is the same for forwards that may be alike. Raises Unreadable."""
    leaves, spec = pytree.tree_flatten((args, kwargs))
    return spec, _modes(), *_signature(leaves)


def _signature(leaves: list[object]) -> list[object]:
    """Of the arguments: tensors by geometry and by what shares memory; all that is on the CPU by value.
    Where in a storage a tensor lies makes no difference. Raises Unreadable."""
    found: list[object] = []
    storages: dict[Cell, tuple[int, int]] = {}
    for leaf in leaves:
        if type(leaf) is SimTensor:
            meta = leaf._meta
            number, begin = storages.setdefault(leaf._cell, (len(storages), meta.offset))
            place = number, meta.offset - begin, leaf.requires_grad
            guess = guess_of(leaf)
            told = None if guess is None else values_of(guess)
            found.append((meta.shape, meta.stride, meta.dtype, meta.bits, *place, told))
        elif isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu":
            found.append((leaf.shape, leaf.stride(), leaf.dtype, values_of(leaf)))
        elif isinstance(leaf, _PLAIN):
            found.append(exactly(leaf))
        else:
            raise Unreadable(f"an argument of type {type(leaf).__name__}")
    return found


def _modes() -> tuple[object, ...]:
    """What PyTorch is set to. Raises Unreadable where a mode sees every operation."""
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack():
        raise Unreadable("a mode of torch functions")
    cuda = torch.backends.cuda
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled(NAME) and torch.get_autocast_dtype(NAME),
        autocast.cached(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        cuda.matmul.allow_tf32,
        cuda.flash_sdp_enabled(),
        cuda.mem_efficient_sdp_enabled(),
        cuda.math_sdp_enabled(),
        cuda.cudnn_sdp_enabled(),
    )


def _on_device(args: tuple[object, ...], kwargs: dict[str, object]) -> list[SimTensor]:
    return [leaf for leaf in pytree.tree_leaves((args, kwargs)) if type(leaf) is SimTensor]


def _known(args: tuple[object, ...], kwargs: dict[str, object]) -> list[bool]:
    return [leaf._cell.known for leaf in _on_device(args, kwargs)]


def _known_values(args: tuple[object, ...], kwargs: dict[str, object]) -> list[bytes | None]:
    """Of the arguments on the device, None of unknown ones. Large ones equal nothing: they are told apart by
    a number each."""
    return [_bytes(inner_of(leaf)) if leaf._cell.known else None for leaf in _on_device(args, kwargs)]


def _bytes(t: torch.Tensor) -> bytes:
    try:
        return values_of(t)
    except Unreadable:
        return random.randbytes(16)


def _around(args: tuple[object, ...], kwargs: dict[str, object]) -> list[object]:
    """What a forward could change beside its module, and its lists. Raises Unreadable."""
    python, (_, keys, *numpy) = random.getstate(), np.random.get_state()
    beside = [None if type(each) is list else each for each in (*args, *kwargs.values())]
    leaves, spec = pytree.tree_flatten(beside)
    tensors = [tensor_state(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
    return [python, np.asarray(keys).tobytes(), numpy, torch.get_rng_state().numpy().tobytes(), spec, tensors]


def _same(
    held: tuple[HeldState, list[object]], args: tuple[object, ...], kwargs: dict[str, object], lists: _Lists
) -> bool:
    """Whether a forward left all as it was."""
    try:
        return lists.intact() and held[0].unchanged() and held[1] == _around(args, kwargs)
    except Unreadable:
        return False
