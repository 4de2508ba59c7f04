"""What breaks cost: the model has the graphs that Dynamo makes, and the price is that of a replay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from diffprof.analyzers.graph_breaks.break_costs import Costs, Priced, record_call
from diffprof.analyzers.graph_breaks.breaks import break_rows, distinct_breaks
from diffprof.analyzers.graph_breaks.component import CaptureResult, capture_part
from diffprof.analyzers.graph_breaks.observe import observing
from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from diffprof.analyzers.graph_breaks.rules import data_dependent_branch, value_read_in_graph
from diffprof.devices import resolve_device
from diffprof.gpu.cost import CostModel
from diffprof.gpu.mode import current_mode
from diffprof.model.recording import Grade
from diffprof.targets.redirect import cuda_redirect
from tests.analyzers.graph_breaks import planted
from tests.analyzers.graph_breaks.conftest import in_child
from tests.analyzers.graph_breaks.tiny import TinyCall
from tests.builders import make_recording

NAMES = (
    "branch",
    "value",
    "side_effect",
    "disabled",
    "several",
    "hidden",
    "hidden_in_the_rest",
    "repeated",
    "whole",
)


class Calls(nn.Module):
    """A component that calls a planted function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


class Pipe:
    def __init__(self, unet: nn.Module) -> None:
        self.components = {"unet": unet}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.components["unet"](x)


@contextmanager
def on_device(name: str) -> Iterator[tuple[Any, TinyCall]]:
    device = resolve_device("sim:a100-80gb")
    function, (x,) = planted.CASES[name]
    with device.active() as place, torch.compiler.set_stance("force_eager"):
        unet = Calls(function)
        device.place(unet)
        yield device, TinyCall(Pipe(unet), {"x": x.to(place)})


def look(name: str) -> tuple[CaptureResult, Costs]:
    with on_device(name) as (device, call):
        with observing(call.pipe) as parts:
            call.run()
        (part,) = parts
        result = in_child(lambda: capture_part(part))
        distinct = distinct_breaks(result)
        rows = break_rows("unet", distinct, result, calls=1, per_step=0.0, grade=Grade.SIMULATED)
        breaks = tuple(map(Priced, distinct, rows))
        log = record_call(call.run, call.pipe, device, breaks)
        model = CostModel(device.gpu, current_mode(compiled=("unet",)))
    return result, Costs(breaks, log, model, ("unet",), "components")


seen = cache(look)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_model_launches_as_many_graphs_as_dynamo_runs(name: str) -> None:
    result, costs = seen(name)
    active = {n for n, each in enumerate(costs.breaks) if not each.found.hidden_by}
    assert costs.variant(active).regions == sum(graph.runs for graph in result.capture.graphs)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_without_any_break_there_is_one_graph(name: str) -> None:
    _, costs = seen(name)
    assert costs.variant(set(), frozenset(range(len(costs.breaks)))).regions == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name != "whole"])
def test_curing_a_break_never_costs(name: str) -> None:
    _, costs = seen(name)
    for number in range(len(costs.breaks)):
        cost = costs.of(number)
        assert cost.saves_ms >= 0.0
        assert cost.kernels >= 0
        assert cost.saves_ms <= cost.call_ms
        assert cost.together_ms is not None
        assert cost.together_ms >= cost.saves_ms - 1e-9


def test_a_value_that_is_read_costs_its_wait_and_a_graph() -> None:
    cost = seen("value")[1].of(0)
    assert cost.graphs == 1
    assert cost.kernels == 1, "the multiplication is not fused to the mean"
    assert cost.blocked_ms > 0.0
    assert cost.saves_ms >= cost.blocked_ms, "nothing is queued behind which the wait could hide"


def test_findings_carry_the_cost_and_say_what_it_is_made_of() -> None:
    with on_device("branch") as (device, call):
        rows = probe_graph_breaks(call, device, cache=False)["graph_breaks"]
    (finding,) = data_dependent_branch(make_recording(graph_breaks=rows))
    assert finding.saves_ms == rows[0].cost.saves_ms > 0.0
    assert finding.blocked_ms == rows[0].cost.blocked_ms
    assert finding.grade is Grade.SIMULATED
    assert "with unet compiled" in str(finding.cost_note)
    assert "1 CUDA graph, 1 kernel and a wait of the host" in str(finding.cost_note)


@pytest.mark.slow
def test_what_redirects_a_scripts_devices_is_not_traced() -> None:
    def cast(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.float64) + 1

    device = resolve_device("sim:a100-80gb")
    with device.active() as place, cuda_redirect(device), torch.compiler.set_stance("force_eager"):
        unet = Calls(cast)
        call = TinyCall(Pipe(unet), {"x": torch.ones(4, device=place)})
        (row,) = probe_graph_breaks(call, device, cache=False)["captures"]
    assert row.fullgraph_ready


def test_without_a_simulated_device_the_cost_is_not_measured() -> None:
    _, (x,) = planted.CASES["value"]
    call = TinyCall(Pipe(Calls(planted.value)), {"x": x})
    rows = probe_graph_breaks(call, None, cache=False)["graph_breaks"]
    (finding,) = value_read_in_graph(make_recording(graph_breaks=rows))
    assert finding.saves_ms is None
    assert finding.blocked_ms is None
    assert "simulated GPU" in str(finding.cost_note)
