"""Planted recompiles: which guard fails, under what change, and what stops it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from diffprof.analyzers.graph_breaks.recompiles import CURES, guard_kind
from diffprof.model.recording import RecompileRow
from tests.analyzers.graph_breaks import changing
from tests.analyzers.graph_breaks.conftest import in_child


def look_at_all() -> dict[str, tuple[RecompileRow, ...]]:
    """In the child: each case called as planted, then in its variations, under each setting."""
    from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
    from diffprof.analyzers.graph_breaks.recompiles import call_again, recompile_rows
    from diffprof.analyzers.graph_breaks.signature import signature
    from diffprof.model.recording import Grade

    def part(owner: Any, *calls: tuple[Any, ...]) -> Compilable:
        described = [CallSignature(signature((args, {})), signature(args), count=1) for args in calls]
        return Compilable(
            "unet", owner, "__call__", "denoiser", calls=described, order=list(range(len(calls)))
        )

    found = {}
    stepping = changing.Stepping()
    scheduler = part(stepping, *[(torch.ones(2),)] * 4)
    scheduler.name, scheduler.method, scheduler.state = "scheduler", "step", dict(vars(stepping))
    found["scheduler"] = recompile_rows(
        scheduler, call_again(scheduler, []), [], limit=8, grade=Grade.MEASURED
    )
    for name, (owner, base, variations) in changing.CASES.items():
        varied = [(label, part(owner, args)) for label, args in variations]
        settings = ("", *CURES) if name in changing.CURED else ("",)
        plain, *cures = [call_again(part(owner, *base), varied, setting=s) for s in settings]
        assert plain.failure is None, (name, plain.failure)
        found[name] = recompile_rows(part(owner, *base), plain, cures, limit=8, grade=Grade.MEASURED)
    return found


@cache
def seen() -> dict[str, tuple[RecompileRow, ...]]:
    before = dict(torch._dynamo.utils.counters["frames"])
    found = in_child(look_at_all)
    assert torch._dynamo.utils.counters["frames"] == before, "the parent has compiled nothing"
    return found


@pytest.mark.slow
def test_another_size_recompiles_once_and_says_what_stops_it() -> None:
    (row,) = seen()["shape"]
    assert (row.kind, row.variation, row.count) == ("shape", "height=6", 1)
    assert row.guard == "tensor 'sample' size mismatch at index 1. expected 4, actual 6"
    assert row.site.function == "Shaped.forward"
    assert row.tried == CURES
    assert row.stopped_by == ("dynamic=True", "mark_dynamic")
    assert not row.limit_hit


@pytest.mark.slow
def test_a_size_that_the_model_fixes_is_not_stopped_by_mark_dynamic() -> None:
    rows = seen()["fixed_shape"]
    assert {row.kind for row in rows} == {"shape"}
    assert all("mark_dynamic" not in row.stopped_by for row in rows)


@pytest.mark.slow
def test_a_burnt_in_number() -> None:
    (row,) = seen()["scalar"]
    assert (row.kind, row.variation) == ("scalar", "scale=0.5")
    assert "scale" in row.guard


@pytest.mark.slow
def test_a_schedulers_float_is_burnt_in() -> None:
    rows = seen()["scheduler"]
    assert {(row.kind, row.variation) for row in rows} == {("scalar", "within one call")}
    assert all("sigma" in row.guard for row in rows)
    assert all(row.site.function.endswith("step") for row in rows)


def test_an_object_that_changes() -> None:
    (row,) = seen()["identity"]
    assert row.kind in ("identity", "type")


def test_a_global_that_changes() -> None:
    rows = seen()["global"]
    assert rows
    assert {row.kind for row in rows} == {"global"}
    assert {row.variation for row in rows} == {"within one call"}
    assert all("CALLS" in row.guard for row in rows)


def test_the_limit() -> None:
    rows = seen()["limit"]
    assert any(row.limit_hit for row in rows)
    assert {row.entries for row in rows} == {8}
    # Ten variations: seven get a version of their own, as the first call has one.
    assert {row.refused for row in rows} == {("scale=7", "scale=8", "scale=9")}
    assert sum(row.count for row in rows) == 7
    assert not any(row.limit_hit for name, others in seen().items() if name != "limit" for row in others)


def test_what_stays_the_same_does_not_recompile() -> None:
    assert seen()["steady"] == ()


@pytest.mark.parametrize(
    ("guard", "kind"),
    [
        ("tensor 'x' size mismatch at index 2. expected 8, actual 16", "shape"),
        ("tensor 'x' stride mismatch at index 1. expected 8, actual 16", "shape"),
        ("tensor 'x' dtype mismatch. expected Float, actual Half", "dtype"),
        ("64*x.size()[2]*x.size()[3] <= 20480", "shape"),
        ("self._step_index == 0", "scalar"),
        ("-1 <= self._step_index <= 1", "scalar"),
        ("___check_obj_id(config, 139868430)", "identity"),
        ("(type(___stack1) is float and __math_isnan(___stack1))", "scalar"),
        ("unet.attn.to_q.scaling['one'] == 1.0", "scalar"),
        ("tensor 'unet.lora.weight' requires_grad mismatch. expected requires_grad=1", "type"),
        ("___check_type_id(hook, 9405)", "type"),
        ("G['CALLS'] == 1", "global"),
        ("GLOBAL_STATE changed: grad_mode", "mode"),
        ("something new", "other"),
    ],
)
def test_kinds_of_guards(guard: str, kind: str) -> None:
    assert guard_kind(guard) == kind


class Joint(nn.Module):
    """A block of two streams, as those of Flux are."""

    def __init__(self) -> None:
        super().__init__()
        self.picture, self.text, self.mixed, self.out = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, picture: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        both = self.mixed(self.picture(picture)) + self.text(text).mean(0)
        return self.out(text), both


class Streams(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Joint() for _ in range(8))

    def forward(self, picture: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            text, picture = block(picture, text)
        return picture.sum(0) + text.sum(0)


@pytest.mark.slow
def test_blocks_that_return_several_tensors_are_called_again_once() -> None:
    def both() -> Any:
        from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
        from diffprof.analyzers.graph_breaks.recompiles import call_again
        from diffprof.analyzers.graph_breaks.repeats import Repeats
        from diffprof.analyzers.graph_breaks.signature import signature

        model = Streams()

        def part(rows: int) -> Compilable:
            args = torch.ones(rows, 4), torch.ones(3, 4)
            repeats = Repeats(model)
            with torch.no_grad():
                out = model(*args)
            repeats.close()
            calls = [CallSignature(signature((args, {})), signature(out), count=1)]
            blocks = list(repeats.seen.values())
            return Compilable("unet", model, "__call__", "denoiser", calls=calls, order=[0], blocks=blocks)

        # Of two streams of one size, the first tensor has the form of either result.
        return [call_again(part(3), [("height=6", part(6))], fold=fold) for fold in (True, False)]

    folded, plain = in_child(both)
    assert folded.failure is plain.failure is None
    assert folded.left_out > 0.0 == plain.left_out
    assert len(folded.by_variation["height=6"]) == len(plain.by_variation["height=6"]) == 1
