"""Models made to be hard: with state in unusual places, cold and warm breaks, and complex numbers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import nn

from tests.analyzers.graph_breaks.tiny import Small

WORLD: dict[str, int] = {}

# --- what changes from call to call ----------------------------------------------------------------------


class Numbered(Small):
    number = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.number += 1
        return self.linear(x) * self.number


class Odd(Small):
    def __init__(self) -> None:
        super().__init__()
        self.past: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.past.append(1)
        return self.linear(x) if len(self.past) % 2 else self.linear(x) + 1


class Flipping(Small):
    flip = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.flip = not self.flip
        return self.linear(x) if self.flip else self.linear(x) - 1


class Moody(Small):
    mood = "a"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mood = {"a": "b", "b": "c", "c": "a"}[self.mood]
        return self.linear(x) * {"a": 1.0, "b": 2.0, "c": 3.0}[self.mood]


class Placed(Small):
    at = (1,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.at = (self.at[0] + 1,)
        return self.linear(x) + self.at[0]


class Remembering(Small):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        new = len(self.seen) not in self.seen
        self.seen.add(len(self.seen))
        return self.linear(x) if new else self.linear(x) * 2


class Tabled(Small):
    table: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.table is None:
            self.table = x.mean(0)
        return self.linear(x) + self.table


class Switching(Small):
    number = 0

    def __init__(self) -> None:
        super().__init__()
        self.others = nn.ModuleList([nn.Linear(4, 4), nn.ReLU()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.number = 1 - self.number
        return self.others[self.number](self.linear(x))  # type: ignore[no-any-return]


STATES = (Numbered, Odd, Flipping, Moody, Placed, Remembering, Tabled, Switching)

# --- what breaks in the first call alone, or in all but it -------------------------------------------------


class First(Small):
    first = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.first:
            print("first")  # cold
        self.first = False
        return self.linear(x)


class Later(Small):
    first = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.first:
            print("later")  # warm
        self.first = False
        return self.linear(x)


class Scaled(Small):
    scale: float | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale is None:
            self.scale = float(x.abs().max().item())  # cold
        return self.linear(x) * self.scale


class Named(Small):
    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, int] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "x" not in self.names:
            self.names["x"] = 1
            print("named")  # cold
        return self.linear(x)


class OfTheClass(Small):
    kept: int | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if type(self).kept is None:
            type(self).kept = 1
            print("kept")  # cold
        return self.linear(x)


class OfTheWorld(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "here" not in WORLD:
            WORLD["here"] = 1
            print("here")  # cold
        return self.linear(x)


class InAListOfTheClass(Small):
    kept: list[int] = []  # noqa: RUF012

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.kept:
            self.kept.append(1)
            print("kept")  # cold
        return self.linear(x)


class Grown(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "grown"):
            self.grown = True
            print("grown")  # cold
        return self.linear(x)


class Filling(Small):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(self.kept) < 2:
            self.kept += [1, 2]
            print("filling")  # cold
        return self.linear(x)


BREAKING = (First, Later, Scaled, Named, OfTheClass, OfTheWorld, InAListOfTheClass, Grown, Filling)

# --- complex numbers ---------------------------------------------------------------------------------------


class Viewed(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.view_as_complex(x.reshape(-1, 2, 2))
        return torch.view_as_real(z * 2).reshape(x.shape)


class Polar(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + torch.polar(x.abs(), x).real


class Transformed(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft(torch.fft.rfft(x), n=4)


class Buffered(Small):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("turn", torch.ones(4, dtype=torch.complex64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.turn).imag


class Absolute(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.complex(x, x)
        return z.abs() + self.linear(x)


class Product(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.complex(x, x)
        return (z @ z.conj().t()).real


class Stacked(Small):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.complex(x, x)
        both = torch.stack([z, z]).sum(0)
        return torch.view_as_real(both)[..., 0]


COMPLEX = (Viewed, Polar, Transformed, Buffered, Absolute, Product, Stacked, Small)

# --- inputs that share memory ------------------------------------------------------------------------------


class Summing(Small):
    def forward(self, x: torch.Tensor, t: torch.Tensor, more: Any = ()) -> torch.Tensor:
        y = self.linear(x) + t.float().sum()
        for each in more.values() if isinstance(more, dict) else more:
            y = y + each.float().sum()
        return y


TABLE = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
ONE = torch.tensor(1.0)

SHARED: dict[str, tuple[Any, ...]] = {
    "batch": (TABLE[:1].expand(2, 4), torch.tensor(999).expand(2)),
    "broadcast": (torch.broadcast_to(TABLE[0], (3, 4)), torch.tensor([7]).expand(3)),
    "overlapping": (TABLE.as_strided((3, 4), (2, 1)), torch.ones(3)),
    "in a list": (TABLE, ONE, [TABLE[:1].expand(5, 4)]),
    "in a dict": (TABLE, ONE, {"mask": torch.tensor([True]).expand(6), "turned": TABLE.t()}),
    "a slice": (TABLE[:1].expand(4, 4)[1:3], torch.ones(1, dtype=torch.bfloat16).expand(2)),
    "windows": (TABLE.unfold(0, 4, 2)[:, 0], torch.arange(3)),
    "every third": (TABLE[::2].flip(0), TABLE.expand(2, 8, 4)[:, ::3]),
}


class Giving:
    """A pipeline that calls a model of each name with its inputs, twice."""

    def __init__(self) -> None:
        self.components = {name: Summing() for name in SHARED}

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        for name, given in SHARED.items():
            for _ in range(2):
                x = self.components[name](*given)
        return x


# --- what Dynamo itself says -------------------------------------------------------------------------------


def compiles(model: nn.Module, x: torch.Tensor, calls: int) -> int:
    """How often so many calls compile the model, beyond the first time."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    with torch.no_grad():
        for _ in range(calls):
            compiled(x)
    return len(graphs) - 1


def complex_nodes(model: nn.Module, x: torch.Tensor) -> dict[int, int]:
    """Line -> operations of the captured graph that read or write complex tensors."""
    found: Counter[int] = Counter()

    def is_complex(node: Any) -> bool:
        value = node.meta.get("example_value")
        return isinstance(value, torch.Tensor) and value.is_complex()

    def backend(graph: Any, inputs: Any) -> Any:
        for node in graph.graph.nodes:
            if node.op.startswith("call_") and any(map(is_complex, [node, *node.all_input_nodes])):
                lines = [line for line in node.stack_trace.splitlines() if __file__ in line]
                found[int(lines[-1].split("line ")[1].split(",")[0])] += 1
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(model, backend=backend)(x)
    return dict(found)
