"""Small models with known graph breaks. Each line that breaks ends in `# breaks: KIND`, once a break.

`CASES`: name -> (callable, arguments).
"""

from __future__ import annotations

import logging
import zlib
from collections import OrderedDict
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
    "repeated": (Repeated(), (torch.ones(2, 4),)),
    "whole": (whole, (_x(),)),
}
