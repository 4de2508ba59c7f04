"""Models that are compiled again for known reasons.

`CASES`: name -> (model, arguments of the calls as they are, variations as (label, arguments)).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CALLS = 0


class Shaped(nn.Module):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return sample.relu() + sample.shape[1]


class FixedShape(nn.Module):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        if sample.shape[1] == 4:
            return sample.relu()
        return sample.cos()


class Scaled(nn.Module):
    def forward(self, sample: torch.Tensor, scale: float) -> torch.Tensor:
        return sample * 2 if scale == 1.0 else sample * 3


class Styled(nn.Module):
    def forward(self, sample: torch.Tensor, style: type) -> torch.Tensor:
        return sample * len(style.__name__)


class Counted(nn.Module):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        global CALLS
        CALLS += 1
        return sample * CALLS


class Stepping:
    """A scheduler that keeps a Python float, another one in each step."""

    def __init__(self) -> None:
        self.sigma = 4.0

    def step(self, sample: torch.Tensor) -> torch.Tensor:
        sample = sample * self.sigma
        self.sigma = self.sigma / 2
        return sample


class Naming:
    """A scheduler whose mode is another one in each step."""

    def __init__(self) -> None:
        self.mode = "step"

    def step(self, sample: torch.Tensor) -> torch.Tensor:
        self.mode += "+"
        return sample * len(self.mode)


class Plain(nn.Module):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        return sample.relu()


def _x(width: int = 4) -> torch.Tensor:
    return torch.ones(2, width)


CASES: dict[str, tuple[Any, tuple[Any, ...], tuple[Any, ...]]] = {
    "shape": (Shaped(), ((_x(),),), (("height=6", (_x(6),)), ("height=8", (_x(8),)))),
    "fixed_shape": (FixedShape(), ((_x(),),), (("height=6", (_x(6),)),)),
    "scalar": (Scaled(), ((_x(), 1.0),), (("scale=0.5", (_x(), 0.5)),)),
    "identity": (Styled(), ((_x(), int),), (("style=str", (_x(), str)),)),
    "global": (Counted(), ((_x(),), (_x(),), (_x(),)), ()),
    "limit": (Scaled(), ((_x(), 1.0),), tuple((f"scale={n}", (_x(), f"{n}")) for n in range(10))),
    "steady": (Plain(), ((_x(),), (_x(),)), (("again", (_x(),)),)),
}

CURED = ("shape", "fixed_shape")
