"""A clock that only fake layers move, so that every timing is exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from diffprof.analyzers.quantization.layers import Unavailable
from diffprof.analyzers.quantization.schemes import Scheme

ORIGINAL_US = 100.0


@dataclass
class Ticks:
    """Microseconds that have passed; each timed work takes ORIGINAL_US unless a fake layer says otherwise."""

    now: float = 0.0
    runs: int = 0
    step: float = field(default=0.0)

    def seconds(self) -> float:
        return self.now / 1e6

    def microseconds(self, work: Callable[[], Any]) -> float:
        """As timing.Runner."""
        self.runs += 1
        before = self.now
        work()
        if self.now == before:
            self.now += ORIGINAL_US
        return self.now - before


class Timed(nn.Module):
    """Computes as a layer does, and takes so many microseconds."""

    def __init__(self, layer: nn.Module, ticks: Ticks, cost: float) -> None:
        super().__init__()
        self.layer = layer
        self.ticks = ticks
        self.cost = cost

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        self.ticks.now += self.cost
        return self.layer(given)


Price = Callable[[nn.Module, Scheme], float | None]
"""Microseconds of a layer under a scheme; None: not available."""


def builder(ticks: Ticks, price: Price) -> Callable[[nn.Module, Scheme], nn.Module]:
    """As layers.quantized_copy."""

    def build(layer: nn.Module, scheme: Scheme) -> nn.Module:
        cost = price(layer, scheme)
        if cost is None:
            raise Unavailable("not in this test")
        return Timed(layer, ticks, cost)

    return build
