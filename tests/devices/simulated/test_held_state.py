"""Whatever a forward could read is seen to change; what can't be compared is refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffprof.devices.simulated import place, simulated_gpu
from diffprof.devices.simulated.held_state import HeldState, Unreadable

COUNT = 0
NUMBER: Any = 0
PAIR: tuple[Any, ...] = (1, 0.0)
NAN = float("nan")
TABLE: dict[str, int] = {}


class Slotted:
    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Processor:
    shared = 0

    def __init__(self) -> None:
        self.count = 1000
        self.seen: list[int] = []
        self.nested = {"scale": {"default": 1.5}}
        self.slotted = Slotted()
        held = 1000

        def add() -> None:
            nonlocal held
            held += 1

        self.add = add
        self.array = np.zeros((1, 2))

    @staticmethod
    @functools.cache
    def cached(size: int) -> int:
        return size + COUNT + len(TABLE)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.blocks = torch.nn.ModuleList([torch.nn.SiLU()])
        self.register_buffer("steps", torch.arange(4))
        self.processor: Any = Processor()
        self.drawn: Any = None
        self.scale = 1000.0


def other_global(model: Model) -> None:
    globals()["COUNT"] += 1


def set_global(name: str, value: object) -> Callable[[Model], object]:
    return lambda m: globals().update({name: value})


def twice(change: Callable[[Model], object]) -> Callable[[Model], object]:
    """The second value may take the place in memory of the one that was there."""
    return lambda m: [change(m) for _ in range(2)]


def larger(model: Model) -> None:
    model.scale += 1


CHANGES: dict[str, Callable[[Model], object]] = {
    "attribute": lambda m: setattr(m.processor, "count", 1001),
    "new attribute": lambda m: setattr(m.processor, "more", 1),
    "attribute under another name": lambda m: vars(m).update(made=vars(m).pop("drawn")),
    "list": lambda m: m.processor.seen.append(1),
    "dict in a dict": lambda m: m.processor.nested["scale"].update(default=0.5),
    "slot": lambda m: setattr(m.processor.slotted, "count", 5),
    "closure": lambda m: m.processor.add(),
    "class": lambda m: setattr(Processor, "shared", Processor.shared + 1),
    "closure, twice": twice(lambda m: m.processor.add()),
    "attribute beside tensors, twice": twice(larger),
    "global": other_global,
    "global 0 that becomes False": set_global("NUMBER", False),
    "global 0 that becomes 0.0": set_global("NUMBER", 0.0),
    "in a tuple, 1 that becomes True": set_global("PAIR", (True, 0.0)),
    "in a tuple, 0.0 that becomes -0.0": set_global("PAIR", (1, -0.0)),
    "shape of an array": lambda m: setattr(m.processor.array, "shape", (2, 1)),
    "table of the file": lambda m: TABLE.update({str(len(TABLE)): 1}),
    "filled cache": lambda m: m.processor.cached(len(TABLE) + 100),
    "processor": lambda m: setattr(m, "processor", Processor()),
    "hook": lambda m: m.linear.register_forward_hook(lambda *_: None),
    "hook of all modules": lambda m: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
    "mode": lambda m: m.linear.train(),
    "method": lambda m: vars(m.linear).update(forward=lambda x: x),
    "block": lambda m: m.blocks.append(torch.nn.SiLU()),
    "parameter": lambda m: setattr(m.linear, "bias", None),
    "data of a parameter": lambda m: setattr(m.linear.weight, "data", m.linear.weight.data.t()),
    "type of a parameter": lambda m: m.linear.half(),
    "known values": lambda m: m.steps.add_(1),
    "buffer that becomes unknown": lambda m: m.steps.copy_(m.linear.weight[0].to(torch.int64)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name: str) -> None:
    with simulated_gpu():
        model = Model().eval()
        place([model.linear], values="unknown")
        place([model.blocks], values="unknown")
        model.steps = model.steps.to("sim:0")
        hooks, own = dict(torch.nn.modules.module._global_forward_hooks), dict(globals())
        held = HeldState(model)
        assert held.unchanged()
        try:
            CHANGES[name](model)
            assert not held.unchanged()
        finally:
            globals().update(own)
            torch.nn.modules.module._global_forward_hooks.clear()
            torch.nn.modules.module._global_forward_hooks.update(hooks)


def test_equal_numbers_are_no_change() -> None:
    model = Model()
    held = HeldState(model)
    model.processor.nested["scale"]["default"] = float("1.5")
    model.processor.count = int("1000")
    globals().update(NAN=float("nan"), PAIR=(int("1"), float("0")))
    assert held.unchanged()


@pytest.mark.parametrize("thing", [itertools.count(), (n for n in range(3)), {"kept": torch.ones(2)}])
def test_what_moves_on_unseen_is_refused(thing: Any) -> None:
    model = Model()
    model.drawn = thing
    with pytest.raises(Unreadable):
        HeldState(model)


def test_a_tensor_that_is_let_go_is_freed() -> None:
    with simulated_gpu() as device:
        model = Model()
        model.linear = torch.nn.Linear(512, 512, device=device)
        held = HeldState(model)
        before = torch.sim.memory_allocated()
        model.linear.weight = None
        assert torch.sim.memory_allocated() <= before - 512 * 512 * 4
        assert not held.unchanged()


def test_a_model_that_was_looked_at_can_be_moved() -> None:
    """As offloading does between two steps: PyTorch moves no parameter that a weak reference names."""
    with simulated_gpu():
        model = torch.nn.Linear(2, 2)
        here = HeldState(model)
        assert here.unchanged()
        model.to("sim:0")
        assert not here.unchanged()
        there = HeldState(model)
        model.to("cpu")
        assert not there.unchanged()
