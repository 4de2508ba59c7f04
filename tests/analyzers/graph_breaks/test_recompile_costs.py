"""What a recompile costs: once, by the clock; and in every call, beyond the limit."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from diffprof.analyzers.graph_breaks import recompiles as recompiles_module
from diffprof.analyzers.graph_breaks.compiled_here import Timed, compile_times, compiles_here
from diffprof.analyzers.graph_breaks.costs import priced_recompiles
from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from diffprof.analyzers.graph_breaks.recompiles import call_again, recompile_rows
from diffprof.analyzers.graph_breaks.signature import signature
from diffprof.devices import resolve_device
from diffprof.judge.judging import make_report
from diffprof.model.finding import Finding
from diffprof.model.recording import Grade, RecompileCost, RecompileRow
from diffprof.views import words
from tests.analyzers.graph_breaks import changing, tiny
from tests.analyzers.graph_breaks.conftest import in_child
from tests.analyzers.graph_breaks.examples import make_recompile, recompiles


class Layered(nn.Module):
    """Equal blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        plain = changing.Plain
        self.blocks = nn.ModuleList(nn.Sequential(plain(), plain(), plain()) for _ in range(blocks))

    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            sample = block(sample)
        return sample


class Pipe:
    def __init__(self, unet: nn.Module) -> None:
        self.components = {"unet": unet}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.components["unet"](x)


def part(owner: Any, *args: Any, calls: int = 1) -> Compilable:
    given = signature((args, {}))
    return Compilable(
        "unet",
        owner,
        "__call__",
        "denoiser",
        calls=[CallSignature(given, signature(args), count=calls)],
        order=[0] * calls,
    )


def look() -> dict[str, Any]:
    """In the child: a recompile for another size, a scheduler that changes in every step, and compiles
    that a user made."""
    found: dict[str, Any] = {}
    shaped = changing.CASES["shape"][0]
    varied = [("height=6", part(shaped, torch.ones(2, 6)))]
    plain = call_again(part(shaped, torch.ones(2, 4)), varied)
    cures = [call_again(part(shaped, torch.ones(2, 4)), varied, setting="mark_dynamic")]
    found["shape"] = recompile_rows(
        part(shaped, torch.ones(2, 4)), plain, cures, limit=8, grade=Grade.SIMULATED
    )
    stepping = changing.Naming()
    steps = part(stepping, torch.ones(2), calls=20)
    steps.name, steps.method, steps.role, steps.state = (
        "scheduler.step",
        "step",
        "scheduler",
        dict(vars(stepping)),
    )
    found["scheduler"] = recompile_rows(steps, call_again(steps, []), [], limit=8, grade=Grade.SIMULATED)

    torch._dynamo.reset()
    torch.compiler.set_stance("default")
    torch._dynamo.utils.clear_compilation_metrics()
    own = changing.Shaped()
    own.compile(backend="eager")
    own(torch.ones(2, 4))
    own(torch.ones(2, 6))
    timed = compiles_here()
    found["timed"] = timed
    other = part(changing.Scaled())
    other.name = "vae"
    found["times"] = compile_times([part(own), other], timed)
    return found


@cache
def seen() -> dict[str, Any]:
    return in_child(look)


@pytest.mark.slow
def test_one_compile_is_timed_and_what_its_backend_takes_is_not_known() -> None:
    (row,) = seen()["shape"]
    assert row.cost.capture_ms > 0.0
    assert not row.cost.from_blocks
    assert row.cost.compile_ms is None
    assert row.cost.eager_ms is None


def test_mark_dynamic_says_what_it_was_tried_on() -> None:
    (row,) = seen()["shape"]
    assert row.marked == {"sample": (1,)}


def test_a_scheduler_that_compiles_in_every_step_is_followed_to_the_limit() -> None:
    rows = seen()["scheduler"]
    assert sum(row.count for row in rows) == 7
    assert {row.entries for row in rows} == {8}
    assert all(row.limit_hit for row in rows)


def test_compiles_of_the_users_own_are_timed_with_their_backend() -> None:
    versions = [each.seconds for each in seen()["timed"] if each.place[2] == "forward"]
    assert len(versions) == 2
    # One version of the function that was compiled; of a model that was not, nothing is said.
    name, *others = seen()["times"].items()
    assert others == []
    assert name == ("unet", pytest.approx(1e3 * sum(versions) / 2))


def test_a_function_that_two_components_share_times_neither() -> None:
    code = changing.Shaped.forward.__code__
    timed = [Timed((code.co_filename, code.co_firstlineno, "forward"), "0", 2.0)]
    one, other = part(changing.Shaped()), part(changing.Shaped())
    other.name = "controlnet"
    assert compile_times([one], timed) == {"unet": 2000.0}
    assert compile_times([one, other], timed) == {}


def test_every_function_of_a_component_counts_with_one_version() -> None:
    own, block = Layered.forward.__code__, changing.Plain.forward.__code__
    timed = [
        Timed((own.co_filename, own.co_firstlineno, "forward"), "0", 4.0),
        Timed((block.co_filename, block.co_firstlineno, "forward"), "1", 1.0),
        Timed((block.co_filename, block.co_firstlineno, "forward"), "1", 3.0),
    ]
    assert compile_times([part(Layered(2))], timed) == {"unet": 6000.0}


@pytest.mark.slow
def test_equal_blocks_are_timed_once_and_count_as_often_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompiles_module, "median", lambda seconds: 1.0)
    call = tiny.TinyCall(Pipe(Layered(30)), {"x": torch.ones(2, 4)})
    sections = probe_graph_breaks(call, None, vary={"x": [torch.ones(2, 6)]}, cache=False)
    (row,) = sections["recompiles"]
    assert row.cost.from_blocks
    assert row.cost.capture_ms > 30_000.0


def test_a_component_beyond_the_limit_costs_what_it_takes_longer_as_plain_python() -> None:
    device = resolve_device("sim:a100-80gb")
    hit = make_recompile("scale == 0.5", "scalar", limit_hit=True, entries=8, limit=8)
    below = make_recompile("scale == 0.5", "scalar", entries=2, limit=8)
    inner = make_recompile("x == 1", "scalar", limit_hit=True, cost=RecompileCost(unpriced="a part"))
    unet = Layered(20)
    parts = [part(unet)]
    with device.active() as place, torch.compiler.set_stance("force_eager"):
        call = tiny.TinyCall(Pipe(unet), {"x": torch.ones(2, 4, device=place)})
        rows = priced_recompiles(call.run, call.pipe, device, parts, (hit, below, inner))
    assert rows[0].cost is not None
    assert rows[0].cost.eager_ms > rows[0].cost.compiled_ms > 0.0
    assert rows[1:] == (below, inner)
    (elsewhere,) = priced_recompiles(call.run, call.pipe, None, parts, (hit,))
    assert elsewhere.cost is not None
    assert elsewhere.cost.eager_ms is None
    assert "sim:" in elsewhere.cost.unpriced


# --- what the findings say -------------------------------------------------------------------------------


def finding(*rows: RecompileRow) -> Finding:
    (found,) = [f for f in make_report(recompiles(*rows)).findings if f.rule.startswith("GRB")]
    return found


def shape(**more: Any) -> RecompileRow:
    return make_recompile(
        "tensor 'sample' size mismatch at index 2. expected 128, actual 96", "shape", count=2, **more
    )


def test_a_compile_is_no_cost_of_every_call() -> None:
    found = finding(shape(cost=RecompileCost(capture_ms=1500.0)))
    assert (found.once_ms, found.saves_ms, found.blocked_ms) == (3000.0, None, None)
    assert "the backend adds was not timed" in (found.cost_note or "")
    assert words.cost(found).startswith("once in a process: 3 s (measured). Dynamo's capture")


def test_a_compile_with_its_backend_is_the_better_figure() -> None:
    found = finding(shape(cost=RecompileCost(capture_ms=1500.0, compile_ms=20000.0)))
    assert found.once_ms == 40000.0
    assert "with its backend" in (found.cost_note or "")


def test_what_was_not_timed_is_not_zero() -> None:
    for cost in (None, RecompileCost()):
        found = finding(shape(cost=cost))
        assert (found.once_ms, found.saves_ms) == (None, None)
        assert words.cost(found).endswith("its time was not taken.")


def test_beyond_the_limit_every_call_pays() -> None:
    cost = RecompileCost(capture_ms=100.0, eager_ms=50.0, compiled_ms=30.0)
    found = finding(make_recompile("scale == 0.5", "scalar", limit_hit=True, entries=8, limit=8, cost=cost))
    assert "other cases run as plain Python; under fullgraph=True they raise." in found.message
    assert (found.rule, found.once_ms, found.saves_ms) == ("GRB014", 100.0, 20.0)
    assert words.cost(found).startswith("saves about 20 ms a call (simulated); once in a process: 100")
    assert "takes 50 ms, with unet as plain Python, and 30 ms compiled" in (found.cost_note or "")
    unknown = RecompileCost(capture_ms=100.0, unpriced="the function is a part")
    found = finding(make_recompile("scale == 0.5", "scalar", limit_hit=True, limit=8, cost=unknown))
    assert found.saves_ms is None
    assert "not priced: the function is a part." in (found.cost_note or "")
