"""Products in TF32 on the CPU: operands of 10 bits of mantissa, where the process lets them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from diffprof.devices.simulated import Tf32Products, multiplying, place
from diffprof.tuning.compiled_twin import decomposing


@pytest.fixture
def _tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


ODD = 1.0 + 2.0**-10 + 2.0**-11
"""One bit more than TF32 holds."""
EVEN = 1.0 + 2.0**-10


def products(device: str) -> list[torch.Tensor]:
    a, b = (torch.full((2, 2), value, device=device) for value in (ODD, 1.0))
    odd = torch.full((2,), ODD - 1.0, device=device)
    made = [a @ b, F.linear(a, b, odd), torch.bmm(a[None], b[None])[0], torch.addmm(odd, b, a)]
    return [each.cpu() for each in made]


def expected(value: float) -> list[float]:
    return [2 * value, 2 * value + ODD - 1.0, 2 * value, 2 * value + ODD - 1.0]


def values(made: list[torch.Tensor]) -> list[float]:
    return [float(each[0, 0]) for each in made]


@pytest.mark.usefixtures("_tf32", "sim")
def test_operands_are_cut_and_what_is_added_is_not():
    mode = Tf32Products()
    with multiplying(mode):
        assert values(products("sim")) == expected(EVEN)
    assert mode.seen
    with Tf32Products():
        assert values(products("cpu")) == expected(EVEN)
    assert values(products("sim")) == values(products("cpu")) == expected(ODD), "outside of it as ever"


@pytest.mark.usefixtures("sim")
def test_only_where_the_process_lets_float32_run_in_tf32():
    with Tf32Products() as mode:
        assert values(products("cpu")) == expected(ODD)
    assert not mode.seen


@pytest.mark.usefixtures("_tf32", "sim")
def test_attention_has_its_operands_cut_and_other_types_are_left():
    mode = Tf32Products()
    query = place(torch.full((1, 1, 2, 8), ODD), values="known")
    with multiplying(mode):
        assert float(F.scaled_dot_product_attention(query, query, query).cpu()[0, 0, 0, 0]) == EVEN
        double = place(torch.full((2, 2), ODD, dtype=torch.float64), values="known")
        assert float((double @ torch.ones_like(double)).cpu()[0, 0]) == 2 * ODD
        assert float((query * 1.0).cpu()[0, 0, 0, 0]) == ODD, "no product of matrices"


class Quantized(torch.Tensor):
    """Says that it is float32, as torchao's weights do."""


@pytest.mark.usefixtures("_tf32")
def test_what_only_says_that_it_is_float32_is_left():
    weight = torch.full((2, 2), ODD).as_subclass(Quantized)
    (left, cut) = Tf32Products().cut("mm", (weight, torch.full((2, 2), ODD)))
    assert left is weight
    assert float(cut[0, 0]) == EVEN


@pytest.mark.usefixtures("_tf32")
def test_so_are_the_operands_of_compiled_code():
    graph = torch.fx.symbolic_trace(lambda a, b: a @ b)
    made = decomposing(graph, ())(torch.full((2, 2), ODD), torch.ones(2, 2))
    assert float(made[0, 0]) == 2 * EVEN
