from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices.simulated import Observer, simulated_gpu
from diffprof.devices.simulated.forward_replay import replaying
from diffprof.devices.simulated.tensor import known, meta_of, unknown
from diffprof.gpu.specs import load_spec


class Told(Observer):
    """Every forward is told to have done the same. values: whether the host is said to have read some."""

    def __init__(self, values: bool) -> None:
        self.values = values
        self.runs = 0

    def op(self, signature: Any) -> None:
        self.runs += 1

    def since(self, mark: Any) -> Any:
        return ()

    def reads(self, told: Any) -> bool:
        return self.values

    def alike(self, one: Any, other: Any) -> bool:
        return True


class Doubled(torch.nn.Module):
    """Of two arguments; what is made of the first alone is returned where `whole` is not set."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y if self.whole else x * 2


def runs(order: str, *, whole: bool, values: bool = False) -> tuple[int, bool]:
    """How many forwards were run where the first argument is known (k) or not (u), and whether the last
    result is known."""
    module = Doubled(whole)
    meta = meta_of(torch.empty(4))
    observer = Told(values)
    with simulated_gpu(observer), replaying([module], observer):
        for letter in order:
            out = module(known(torch.ones(4)) if letter == "k" else unknown(meta), unknown(meta))
        return observer.runs, out._cell.known  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("order", "ran"), [("kuuu", 1), ("ukuu", 2), ("uukk", 2), ("kkkk", 1), ("kkuu", 1), ("uuuk", 2)]
)
def test_an_argument_that_was_known_may_be_unknown_and_not_the_other_way_round(order: str, ran: int) -> None:
    assert runs(order, whole=True)[0] == ran


def test_what_is_known_of_a_result_stays_known() -> None:
    assert runs("uuk", whole=False) == (2, True)


def test_where_values_were_read_they_and_what_is_known_must_agree() -> None:
    assert runs("kkku", whole=True, values=True)[0] == 2
    assert runs("uuuk", whole=True, values=True)[0] == 2


class Table(torch.nn.Module):
    """Adds a table that the host holds, or a value that the host reads of the first argument."""

    def __init__(self, read: bool) -> None:
        super().__init__()
        self.read = read

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return y + (x.sum().item() if self.read else torch.ones(4).to(x.device))


@pytest.mark.parametrize(("read", "again"), [(False, [1, 2, 3, 4, 5]), (True, [])])
def test_what_the_host_sends_is_no_value_that_it_reads(
    read: bool, again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Table(read)
    kernels = SimulatedKernels(load_spec("a100-80gb"), SimpleNamespace(components={"unet": module}))
    told: list[int] = []
    monkeypatch.setattr(kernels, "again", lambda *what: told.append(step))
    with simulated_gpu(kernels), kernels.following(), replaying([module], kernels):
        for step in range(6):
            module(known(torch.full((4,), float(step))), unknown(meta_of(torch.empty(4))))
    assert told == again


class Flagged(torch.nn.Module):
    """Returns one value and the other in turn, or leaves it in the list that it is given. Whose turn it is
    stands where no module's state is looked for; the first forward leaves a change, and is run again."""

    warm = False

    def __init__(self, values: tuple[Any, Any], given: bool) -> None:
        super().__init__()
        self.values, self.given = values, given

    def forward(self, x: torch.Tensor, kept: list[Any]) -> Any:
        self.warm = True
        value = self.values[int(os.environ["TURN"])]
        if self.given:
            kept[:] = [value]
        return x + 1, None if self.given else value


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(("other", "ran"), [(True, 6), (1.0, 6), (1, 2)])
def test_equal_values_of_two_types_are_not_one_result(
    other: Any, ran: int, given: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, observer = Flagged((1, other), given), Told(values=False)
    with simulated_gpu(observer), replaying([module], observer):
        for turn in "010101":
            monkeypatch.setenv("TURN", turn)
            module(unknown(meta_of(torch.empty(4))), [None])
    assert observer.runs == ran


class Warmed(torch.nn.Module):
    """Is another after its first forward."""

    warm = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.warm = True
        return (x + 1) * 2


class Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 1) * 2


@pytest.mark.parametrize(("module", "ran"), [(Plain(), 2), (Warmed(), 4)])
def test_one_that_left_a_change_is_run_again(module: torch.nn.Module, ran: int) -> None:
    """ran: operations, two a forward."""
    observer = Told(values=False)
    with simulated_gpu(observer), replaying([module], observer):
        for _ in range(5):
            module(unknown(meta_of(torch.empty(4))))
    assert observer.runs == ran


class InOrder(Observer):
    def __init__(self) -> None:
        self.order: list[str] = []

    def op(self, signature: Any) -> None:
        self.order.append(f"{signature.name} {signature.inputs[0].shape[0]}")

    def alloc(self, nbytes: int, number: int) -> None:
        self.order.append(f"+{nbytes}")

    def free(self, nbytes: int, number: int) -> None:
        self.order.append(f"-{nbytes}")


def happened(x: Any) -> list[str]:
    observer = InOrder()
    with simulated_gpu(observer):
        x = x()
        observer.order.clear()
        y = x * 2
        y = y.new_zeros(300) + y.repeat(100)[:300]
        torch.add(x, x, out=x)
        del y
    return observer.order


def test_known_and_unknown_values_take_memory_in_one_order() -> None:
    found = happened(lambda: known(torch.ones(4)))
    assert found == happened(lambda: unknown(meta_of(torch.empty(4))))
    assert found[:4] == ["aten::mul 4", "+512", "aten::new_zeros 4", "+1536"]
