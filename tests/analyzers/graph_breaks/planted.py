"""Small models with known graph breaks. Each line that breaks ends in `# breaks: KIND, KIND`, a kind a break.

`CASES`: name -> (callable, arguments).
"""

from __future__ import annotations

import functools
import logging
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

log = logging.getLogger(__name__)


def branch(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    if y.sum() > 0:  # breaks: branch
        y = y + 1
    return y.relu()


def value(x: torch.Tensor) -> torch.Tensor:
    scale = x.abs().mean().item()  # breaks: value
    return x * scale


class SampleOutput(OrderedDict):
    def __init__(self, sample: torch.Tensor) -> None:
        super().__init__()
        self.version = zlib.crc32(b"SampleOutput")  # breaks: model-output
        self["sample"] = sample


def model_output(x: torch.Tensor) -> torch.Tensor:
    made = SampleOutput(x * 2)
    return made["sample"] + 1


def side_effect(x: torch.Tensor) -> torch.Tensor:
    x = x + 1
    print("in the middle")  # breaks: side-effect
    x = x * 2
    log.warning("and again")  # breaks: side-effect
    return x * 3


def numpy_trip(x: torch.Tensor) -> torch.Tensor:
    y = np.interp(x.numpy(), np.arange(4), np.arange(4))  # breaks: numpy
    return torch.from_numpy(y) + 1


def c_call(x: torch.Tensor) -> torch.Tensor:
    return x * (zlib.crc32(b"key") % 7)  # breaks: call


@torch.compiler.disable
def not_compiled(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def disabled(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y = not_compiled(y)  # breaks: disabled
    return y * 3


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.inner.register_forward_hook(talk)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * 2


def talk(module: nn.Module, args: Any, output: torch.Tensor) -> None:
    print("hooked")  # breaks: hook


def other(x: torch.Tensor) -> torch.Tensor:
    return x + hash(repr(x * 2) == "")  # breaks: other


def several(x: torch.Tensor) -> torch.Tensor:
    y = x.relu()
    if y.sum().item() > 1e9:  # breaks: value
        y = y + 1
    print("one")  # breaks: side-effect
    y = y * 2
    y = not_compiled(y)  # breaks: disabled
    if y.mean() > 1e9:  # breaks: branch
        y = y - 1
    return deeper(y)


def deeper(x: torch.Tensor) -> torch.Tensor:
    x = x.cos()
    print("two")  # breaks: side-effect
    return deepest(x.sin())


def deepest(x: torch.Tensor) -> torch.Tensor:
    values = x.tolist()  # breaks: value
    return x + len(values)


def hidden(x: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        x = x + 1
        print("in a loop")  # breaks: side-effect
        if x.sum() > 1e9:  # breaks: branch
            continue
        x = x * 2
    print("behind it")  # breaks: side-effect
    return not_compiled(x)  # breaks: disabled


def hidden_in_the_rest(x: torch.Tensor) -> torch.Tensor:
    x = x.relu()
    print("before the loop")  # breaks: side-effect
    for _ in range(2):
        x = x + 1
        print("in it")  # breaks: side-effect
    return not_compiled(x)  # breaks: disabled


def hidden_behind_shapes(x: torch.Tensor) -> torch.Tensor:
    y = x
    for size in (8, 16, 4):
        print("a shape a pass")  # breaks: side-effect
        y = y.repeat(4)[:size]
    y = x + y
    print("behind it")  # breaks: side-effect
    return not_compiled(y)  # breaks: disabled


def hidden_in_later_passes(x: torch.Tensor) -> torch.Tensor:
    for number in range(8):
        print("each pass")  # breaks: side-effect
        if number > 0:
            print("not the first")  # breaks: side-effect
        elif number == 0:
            x = x + 1
        if number == 6:
            x = not_compiled(x)  # breaks: disabled
    return x


def hidden_too_late(x: torch.Tensor) -> torch.Tensor:
    for number in range(40):
        print("each pass")  # breaks: side-effect
        if number == 30:
            print("not looked for")
    return x


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        if y.sum() > 1e9:  # breaks: branch
            y = y + 1
        return y


class Repeated(nn.Module):
    """The same break in each of three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def in_one_line(x: torch.Tensor) -> torch.Tensor:
    y = x.relu()
    return y * (zlib.crc32(b"a") % 7) + y.sum().item()  # breaks: call, value


def nested(x: torch.Tensor) -> torch.Tensor:
    def inner(y: torch.Tensor) -> torch.Tensor:
        print("inner")  # breaks: side-effect
        return y.cos()

    return inner(x * 2) + 1


def comprehension(x: torch.Tensor) -> torch.Tensor:
    one, two = [not_compiled(x) for _ in range(2)]  # breaks: disabled
    return one + two


def in_a_lambda(x: torch.Tensor) -> torch.Tensor:
    twice: Callable[[torch.Tensor], torch.Tensor] = lambda y: y * not_compiled(y)  # noqa: E731  # breaks: disabled
    return twice(x)


def announced(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> torch.Tensor:
        print("calling")  # breaks: side-effect
        return function(*args)

    return wrapper


@announced
def decorated(x: torch.Tensor) -> torch.Tensor:
    y = x + 1
    if y.sum() > 1e9:  # breaks: branch
        y = y - 1
    return y


class Timed:
    def __enter__(self) -> None:
        print("in")  # breaks: side-effect

    def __exit__(self, *args: object) -> None:
        pass


def in_a_class_of_context(x: torch.Tensor) -> torch.Tensor:
    with Timed():
        y = x + 1
        print("within")  # breaks: side-effect
    return not_compiled(y)  # breaks: disabled


@contextmanager
def timed() -> Iterator[None]:
    print("before")  # breaks: side-effect
    yield


def in_a_generator_of_context(x: torch.Tensor) -> torch.Tensor:
    with timed():
        y = x + 1
    return y * y.mean().item()  # breaks: value


def under_no_grad(x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x + 1
        print("inside")  # breaks: side-effect
    return not_compiled(y)  # breaks: disabled


def handled(x: torch.Tensor) -> torch.Tensor:
    try:
        y = x + 1
        print("trying")  # breaks: side-effect
    finally:
        log.warning("in the end")  # breaks: side-effect
    return y * 2


def called_once(x: torch.Tensor) -> torch.Tensor:
    return not_compiled(x.relu())  # breaks: disabled


def around(x: torch.Tensor) -> torch.Tensor:
    return called_once(x) + 1


def at_two_depths(x: torch.Tensor) -> torch.Tensor:
    return around(called_once(x))


def downwards(x: torch.Tensor, depth: int = 3) -> torch.Tensor:
    if depth == 0:
        return x
    print("down")  # breaks: side-effect
    return downwards(x + 1, depth - 1)


class Scale:
    def __init__(self) -> None:
        self.scale = torch.tensor(2.0)

    @property
    def factor(self) -> float:
        return self.scale.item()  # breaks: value


def through_a_property(x: torch.Tensor) -> torch.Tensor:
    return x * Scale().factor


def pieces(x: torch.Tensor) -> Iterator[torch.Tensor]:
    for n in range(2):
        print("piece")  # breaks: side-effect
        yield x * n


def of_a_generator(x: torch.Tensor) -> torch.Tensor:
    return x + sum(pieces(x))


def both_in_a_condition(x: torch.Tensor) -> torch.Tensor:
    return x + 1 if x.sum() > 1e9 or x.mean().item() > 1e9 else x - 1  # breaks: branch, value


def over_lines(x: torch.Tensor) -> torch.Tensor:
    return not_compiled(  # breaks: disabled
        x.relu()
        + zlib.crc32(b"a long name, so that the argument stands on a line of its own") % 3  # breaks: call
    )


def after_chains(x: torch.Tensor) -> torch.Tensor:
    print("first")  # breaks: side-effect
    y = (
        x.clamp(min=-1.0, max=1.0)
        .relu()  # a method that begins a line
        .cos()
        .sin()
    )
    y = not_compiled(y)  # breaks: disabled
    y = (
        y.clamp(min=-1.0, max=1.0).relu()  # and another one
    )
    return y * y.mean().item()  # breaks: value


class Casting(nn.Module):
    """Two lines that break on the same one of PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.inner.to(torch.float32)  # breaks: other
        y = self.inner(x)
        self.inner.to(torch.float64)  # breaks: other
        return y


def whole(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.sum() > 0, x + 1, x).relu()


def _x() -> torch.Tensor:
    return torch.ones(4)


CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "branch": (branch, (_x(),)),
    "value": (value, (_x(),)),
    "model_output": (model_output, (_x(),)),
    "side_effect": (side_effect, (_x(),)),
    "numpy_trip": (numpy_trip, (_x(),)),
    "c_call": (c_call, (_x(),)),
    "disabled": (disabled, (_x(),)),
    "hooked": (Hooked(), (_x(),)),
    "other": (other, (_x(),)),
    "several": (several, (_x(),)),
    "hidden": (hidden, (_x(),)),
    "hidden_in_the_rest": (hidden_in_the_rest, (_x(),)),
    "hidden_behind_shapes": (hidden_behind_shapes, (_x(),)),
    "hidden_in_later_passes": (hidden_in_later_passes, (_x(),)),
    "hidden_too_late": (hidden_too_late, (_x(),)),
    "repeated": (Repeated(), (torch.ones(2, 4),)),
    **{
        each.__name__: (each, (_x(),))
        for each in (
            *(in_one_line, nested, comprehension, in_a_lambda, decorated, in_a_class_of_context),
            *(in_a_generator_of_context, under_no_grad, handled, at_two_depths, downwards),
            *(through_a_property, of_a_generator, both_in_a_condition, over_lines, after_chains),
        )
    },
    "casting": (Casting(), (_x(),)),
    "whole": (whole, (_x(),)),
}
