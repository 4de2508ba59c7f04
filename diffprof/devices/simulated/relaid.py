"""Calls of models, run again on the simulated GPU with a change made: their weights in channels_last, or the
projections of attention fused.

How layouts pass from operation to operation is for PyTorch to say, and what a processor for fused projections
does for diffusers, so the model's own code runs once more, with what it was called with. Modules and
processors are as before when it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from diffprof.gpu.assembly import Launched, LaunchedWait, Relaid, alike
from diffprof.gpu.families import base_name, family_of
from diffprof.gpu.signatures import OpSignature
from diffprof.gpu.timeline_builder import ModuleStack
from diffprof.model.pipeline import walked

from .activation import observing
from .observer import Blocking, Observer
from .session import suspended
from .tensor import SimTensor, inner_of, intern_meta, known, unknown

KEPT = 1 << 12
"""Elements up to which values of arguments are kept."""


class _Seen(NamedTuple):
    """A tensor that a module was called with: its geometry, and its values where they are known."""

    meta: Any
    values: torch.Tensor | None

    def again(self) -> torch.Tensor:
        if self.values is not None:
            return known(self.values.clone())
        meta = self.meta
        return unknown(intern_meta(meta.shape, meta.stride, meta.dtype, 0))


class _Record(NamedTuple):
    """One call of a module. first, last: its items."""

    path: str
    module: nn.Module
    given: Any
    first: int
    last: int


class NotRelaid(Exception):
    """Why it can't be told what a call would launch with a change made: a sentence."""


class RerunCalls:
    """The outermost calls of models whose convolutions are not in channels_last, or whose attention joins two
    streams that are projected one by one.

    items: of the call that is being recorded, as they come. roots: components that the change is for.
    """

    def __init__(self, items: Sequence[Any], roots: Sequence[str]) -> None:
        self._items = items
        self._roots = frozenset(roots)
        self._records: list[_Record] = []
        self._convolves: dict[int, bool] = {}
        self._joins: dict[int, bool] = {}

    @contextmanager
    def noted(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, object]
    ) -> Iterator[None]:
        """For `ModuleStack.outermost`: the module is called inside."""
        if path.partition(".")[0] not in self._roots or not self._is_wanted(module):
            yield
            return
        given = pytree.tree_map_only(torch.Tensor, _seen, (args, kwargs))
        first = len(self._items)
        yield
        self._records.append(_Record(path, module, given, first, len(self._items)))

    def _is_wanted(self, module: nn.Module) -> bool:
        if id(module) not in self._convolves:
            modules = [each for _, each in walked(module)]
            weights = [w for each in modules for w in each._parameters.values() if w is not None]
            # `model.to(memory_format=torch.channels_last)` raises where a weight has five dimensions.
            flat = all(weight.dim() < 5 for weight in weights)
            self._convolves[id(module)] = flat and any(map(_is_other_order, weights))
            self._joins[id(module)] = _joins(module, modules)
        return self._convolves[id(module)] or self._joins[id(module)]

    def relaid(self, names: Mapping[int, str]) -> tuple[Relaid, ...]:
        """What each model launches in channels_last. names: of the modules. Raises NotRelaid."""

        def change(record: _Record) -> Mapping[int, str]:
            if not _put_in_order(record.module):
                raise NotRelaid(f"the weights of {record.path} are not on the device")
            return names

        return self._changed(self._convolves, change, same_work=True)

    def fused(self, names: Mapping[int, str]) -> tuple[Relaid, ...]:
        """What each model with joint attention launches with its projections fused. names: of the modules.
        Raises NotRelaid."""

        def change(record: _Record) -> Mapping[int, str]:
            record.module.fuse_qkv_projections()  # type: ignore[operator]
            found = {id(each): f"{record.path}.{inner}" for inner, each in walked(record.module) if inner}
            return {**found, **names}

        return self._changed(self._joins, change, same_work=False)

    def _changed(
        self, wanted: Mapping[int, bool], change: Callable[[_Record], Mapping[int, str]], *, same_work: bool
    ) -> tuple[Relaid, ...]:
        """Calls that launched the same are run once."""
        ran: dict[tuple[object, ...], _Again] = {}
        found = []
        items = alike(self._items)
        for record in self._records:
            if not wanted[id(record.module)]:
                continue
            launched = items[record.first : record.last]
            key = (id(record.module), *map(_alike, launched))
            if key not in ran:
                again = _again(record, change)
                if same_work and _work([item for item, _ in again]) != _work(launched):
                    raise NotRelaid(f"called again, {record.path} does other work")
                ran[key] = _Again(again, [item for item, _ in again if isinstance(item, LaunchedWait)])
            found.append(Relaid(record.first, record.last, _with_waits(record.path, ran[key], launched)))
        return tuple(found)


def _alike(item: OpSignature | LaunchedWait) -> object:
    """The same for what is launched alike, and for waits that take as long wherever they are."""
    return _span(item) if isinstance(item, LaunchedWait) else id(item)


def _span(wait: LaunchedWait) -> tuple[int, int | None]:
    return wait.times, wait.stream


class _Again(NamedTuple):
    """What a call launched when it ran again, and its waits."""

    items: list[Launched]
    waits: list[LaunchedWait]


def _with_waits(path: str, again: _Again, before: Sequence[OpSignature | LaunchedWait]) -> Sequence[Launched]:
    """The waits of the call as it ran in the place of those of the one that ran again, in their order.

    Raises NotRelaid where they are others.
    """
    waits = [item for item in before if isinstance(item, LaunchedWait)]
    if list(map(_span, again.waits)) != list(map(_span, waits)):
        raise NotRelaid(f"called again, {path} waits otherwise")
    if not waits:
        return again.items
    left = iter(waits)
    return [(next(left) if isinstance(item, LaunchedWait) else item, module) for item, module in again.items]


def _joins(model: nn.Module, modules: Sequence[nn.Module]) -> bool:
    """Whether attention modules of a model project a second stream beside their own, and all can be fused."""
    if not callable(getattr(model, "fuse_qkv_projections", None)):
        return False
    return any(
        "add_q_proj" in each._modules and not getattr(each, "fused_projections", False) for each in modules
    )


def _seen(tensor: torch.Tensor) -> Any:
    if type(tensor) is not SimTensor:
        return tensor
    values = inner_of(tensor).clone() if tensor._cell.known and tensor.numel() <= KEPT else None
    return _Seen(tensor._meta, values)


def _is_other_order(weight: torch.Tensor) -> bool:
    """Whether a weight could be in channels_last, where that makes a difference, and is not."""
    return weight.dim() == 4 and not weight.is_contiguous(memory_format=torch.channels_last)


def _again(record: _Record, change: Callable[[_Record], Mapping[int, str]]) -> list[Launched]:
    """change: makes the change and gives the names of the modules."""
    args, kwargs = pytree.tree_map_only(_Seen, _Seen.again, record.given, is_leaf=_is_seen)
    try:
        with _as_it_was(record.module), torch.no_grad():
            with suspended():
                stack = ModuleStack(change(record))
            taken = _Taken(stack)
            with observing(taken), stack.following():
                record.module(*args, **kwargs)
    except NotRelaid:
        raise
    except Exception as error:
        raise NotRelaid(f"called again, {record.path} raised {type(error).__name__}: {error}") from error
    return taken.items


def _put_in_order(module: nn.Module) -> int:
    """Other weights in channels_last in the place of a module's own; how many."""
    count = 0
    for each in module.modules():
        for name, weight in each._parameters.items():
            if weight is not None and _is_other_order(weight) and type(weight.data) is SimTensor:
                meta = intern_meta(weight.shape, _strides(weight.shape), weight.dtype, 0)
                each._parameters[name] = unknown(meta)  # type: ignore[assignment]
                count += 1
    return count


def _strides(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta", memory_format=torch.channels_last).stride()


def _is_seen(thing: object) -> bool:
    return type(thing) is _Seen


class _Taken(Observer):
    """Takes down what a module launches, with the module that does."""

    def __init__(self, stack: ModuleStack) -> None:
        self.items: list[Launched] = []
        self._stack = stack

    def op(self, signature: OpSignature) -> None:
        self.items.append((signature, self._stack.path))

    def blocking(self, event: Blocking) -> None:
        self.items.append((LaunchedWait(None, event.waits, event.stream), self._stack.path))


def _work(items: Sequence[Any]) -> list[str]:
    """The operations but for copies, which come and go with the layout."""
    names = [base_name(item) for item in items if isinstance(item, OpSignature)]
    return [name for name in names if family_of(name) != "copy"]


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """What modules and their processors hold is afterwards what it was before."""
    held: list[tuple[dict[str, object], dict[str, object]]] = []
    for each in module.modules():
        for thing in (each, getattr(each, "processor", None)):
            own = getattr(thing, "__dict__", None)
            if isinstance(own, dict):
                held.append((own, dict(own)))
                held += [(inner, dict(inner)) for inner in own.values() if type(inner) is dict]
    try:
        yield
    finally:
        for own, before in held:
            own.clear()
            own.update(before)
