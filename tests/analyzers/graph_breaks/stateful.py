"""Models that keep something from a call, in each of the ways that Python has for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tests.analyzers.graph_breaks.tiny import Small, TinyCall

COUNT = 0


class Cached(Small):
    """Makes a table in the first call, and says so."""

    def __init__(self) -> None:
        super().__init__()
        self.table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            print("making the table")
            self.table = torch.ones(4)
        return self.linear(x) * self.table


class Replaying(Small):
    """Answers from what it kept, and says so, in every call but the first."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, int] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "first" in self.kept:
            print("kept")
        self.kept["first"] = 1
        return self.linear(x)


class Collecting(nn.Module):
    """An attention processor's habit: it keeps what it computed, under the number of the call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Small() for _ in range(2))
        self.processor = Collector()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = self.processor(layer, x)
        return x


class Collector:
    def __init__(self) -> None:
        self.seen = 0
        self.kept: dict[int, torch.Tensor] = {}

    def __call__(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        self.kept[self.seen] = x.mean(0)
        return layer(x)


class Appending(Small):
    """Keeps its results in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        self.kept.append(y)
        return y


class Queued(Small):
    def __init__(self) -> None:
        super().__init__()
        self.last: deque[int] = deque(maxlen=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last.append(len(self.last))
        return self.linear(x)


class Closed(Small):
    """Counts in a closure."""

    def __init__(self) -> None:
        super().__init__()
        self.count = _counter()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.count()


def _counter() -> Callable[[], int]:
    number = 0

    def count() -> int:
        nonlocal number
        number += 1
        return number

    return count


class Worldwide(Small):
    """Counts in a global."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        global COUNT
        COUNT += 1
        return self.linear(x) * COUNT


class Shared(Small):
    """Counts in its class."""

    seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).seen += 1
        return self.linear(x)


class Counting(Small):
    """Takes another way in every third call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.linear(x) if self.seen % 3 else x * 2


class Block(nn.Module):
    """factor: a number of the block, burnt into its code."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.factor


class Blocks(nn.Module):
    """Breaks beside its blocks, not in them."""

    def __init__(self, *factors: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(map(Block, factors))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        print("outside of the blocks")
        for block in self.blocks:
            x = block(x)
        return x


class Often:
    """A pipeline that calls each model so many times."""

    def __init__(self, times: int, **parts: nn.Module) -> None:
        self.components = parts
        self.times = times

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> Any:
        y = x
        for part in self.components.values():
            for _ in range(self.times):
                y = part(x)
        return y


def often(times: int, **parts: nn.Module) -> TinyCall:
    return TinyCall(Often(times, **parts), {"x": torch.ones(2, 4)})
