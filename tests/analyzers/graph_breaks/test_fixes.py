"""With the code of a fix in force, its planted break or recompile is gone, and the result is the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn

from diffprof.analyzers.graph_breaks.causes import kind_of
from diffprof.analyzers.graph_breaks.fixes import RECIPES, for_break, for_recompile
from diffprof.judge.judging import make_report
from diffprof.judge.recipes import find_recipe, recipes
from diffprof.model.fix import Code, Safety, Skipped
from diffprof.model.recording import GraphBreakRow, RecompileRow, Recording
from tests.analyzers.graph_breaks import changing, planted, tiny
from tests.analyzers.graph_breaks.conftest import in_child
from tests.analyzers.graph_breaks.examples import BAD, make_break, make_recompile
from tests.builders import make_recording, make_site

SETTLED = {
    "side_effect": "quiet-in-graph",
    "hooked": "quiet-in-graph",
    "value": "capture-scalars",
}


@dataclass
class SampleOutput:
    sample: torch.Tensor

    def __post_init__(self) -> None:
        planted.zlib.crc32(b"SampleOutput")  # Dynamo can't follow


class Sampling(nn.Module):
    """Answers as diffusers' models do."""

    def forward(self, x: torch.Tensor, return_dict: bool = True) -> SampleOutput | tuple[torch.Tensor]:
        x = x * 2
        return SampleOutput(x) if return_dict else (x,)


class Multiplied(nn.Module):
    def forward(self, sample: torch.Tensor, strength: float = 1.0) -> torch.Tensor:
        return sample * strength


def written(key: str, recording: Recording) -> Code:
    """The code for what the rules find in a recording."""
    findings = [f for f in make_report(recording).findings if key in f.fixes]
    assert findings, key
    code = find_recipe(key).code(recording, findings)
    assert isinstance(code, Code), code
    return code


@contextmanager
def in_force(code: Code, pipe: Any = None) -> Iterator[None]:
    space: dict[str, Any] = {"pipe": pipe}
    exec("\n".join([*code.imports, code.definitions, code.optimize]), space)
    with ExitStack() as stack:
        if code.around:
            stack.enter_context(eval(code.around, space))
        yield


def recorded(rows: tuple[GraphBreakRow, ...], again: tuple[RecompileRow, ...] = ()) -> Recording:
    return make_recording(captures=(), graph_breaks=rows, recompiles=again)


def look_at_all() -> dict[str, Any]:
    """In the child: breaks of each case without and with its fix."""
    from diffprof.analyzers.graph_breaks.breaks import break_rows, distinct_breaks
    from diffprof.analyzers.graph_breaks.component import capture_part
    from diffprof.analyzers.graph_breaks.observe import CallSignature, Compilable
    from diffprof.analyzers.graph_breaks.recompiles import call_again, recompile_rows
    from diffprof.analyzers.graph_breaks.signature import signature
    from diffprof.model.recording import Grade

    def rows(owner: Any, args: tuple[Any, ...]) -> tuple[GraphBreakRow, ...]:
        inputs = signature((args, {}))
        part = Compilable(
            "unet", owner, "__call__", "denoiser", calls=[CallSignature(inputs, inputs, count=1)], order=[0]
        )
        result = capture_part(part)
        assert result.capture.failure is None, result.capture.failure
        return break_rows(
            "unet", distinct_breaks(result), result, calls=1, per_step=1.0, grade=Grade.MEASURED
        )

    found: dict[str, Any] = {}
    for name, key in SETTLED.items():
        owner, args = planted.CASES[name]
        before = rows(owner, args)
        code = written(key, recorded(before))
        with in_force(code):
            found[name] = (len(before), len(rows(owner, args)))

    model = Sampling()
    before = rows(model, (torch.ones(4),))
    with in_force(written("tuple-outputs", recorded(before)), SimpleNamespace(unet=model)):
        found["outputs"] = (len(before), len(rows(model, (torch.ones(4),))))

    def part(owner: Any, *args: Any) -> Compilable:
        return Compilable(
            "unet",
            owner,
            "__call__",
            "denoiser",
            calls=[CallSignature(signature((args, {})), signature(args), count=1)],
            order=[0],
        )

    for name, key in (("shape", "dynamic-shapes"), ("limit", "more-versions")):
        owner, base, variations = changing.CASES[name]
        varied = [(label, part(owner, *args)) for label, args in variations]
        plain = call_again(part(owner, *base[0]), varied)
        cures = [call_again(part(owner, *base[0]), varied, setting="dynamic=True")] if name == "shape" else []
        recompiled = recompile_rows(part(owner, *base[0]), plain, cures, limit=8, grade=Grade.MEASURED)
        code = written(key, recorded((), recompiled))
        with in_force(code):
            again = call_again(part(owner, *base[0]), varied)
            after = recompile_rows(part(owner, *base[0]), again, [], limit=8, grade=Grade.MEASURED)
        found[name] = (recompiled, after)
    shaped = changing.Shaped()
    varied = [("height=6", part(shaped, torch.ones(2, 6)))]
    own = part(shaped, torch.ones(2, 4))
    plain, cured = (call_again(own, varied, setting=setting) for setting in ("", "mark_dynamic"))
    marked = recompile_rows(own, plain, [cured], limit=8, grade=Grade.MEASURED)
    unfixed = shaped(torch.ones(2, 6))
    with in_force(written("mark-dynamic", recorded((), marked)), SimpleNamespace(unet=shaped)):
        after = call_again(own, varied)
        assert torch.equal(shaped(torch.ones(2, 6)), unfixed)
    found["marked"] = (marked, recompile_rows(own, after, [], limit=8, grade=Grade.MEASURED), after.failure)
    found["numbers"] = numbers()
    found["config"] = torch._dynamo.config.get_config_copy()
    return found


def numbers() -> tuple[int, int, bool]:
    """Graphs compiled for three strengths, without and with numbers as tensors; whether results agree."""
    counts, results = [], []
    guard = make_recompile("strength == 1.0", "scalar", site=make_site("my/model.py", 12, function="forward"))
    for fixed in (False, True):
        graphs: list[Any] = []
        model = Multiplied()
        torch._dynamo.reset()
        if fixed:
            with in_force(written("numbers-as-tensors", recorded((), (guard,))), SimpleNamespace(unet=model)):
                pass
        model.compile(backend=lambda graph, inputs, into=graphs: into.append(graph) or graph.forward)
        results.append([model(torch.ones(3), strength=s) for s in (1.0, 0.5, 0.25)])
        counts.append(len(graphs))
    agree = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    return counts[0], counts[1], agree


@cache
def seen() -> dict[str, Any]:
    return in_child(look_at_all)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SETTLED, "outputs"])
def test_the_break_is_gone(name: str) -> None:
    before, after = seen()[name]
    assert before
    assert after == 0


@pytest.mark.slow
def test_another_size_no_longer_compiles_again() -> None:
    before, after = seen()["shape"]
    assert {row.kind for row in before} == {"shape"}
    assert after == ()


@pytest.mark.slow
def test_sizes_that_are_marked_before_the_compiled_code_compile_once() -> None:
    before, after, failure = seen()["marked"]
    assert [row.marked for row in before] == [{"sample": (1,)}]
    assert after == ()
    assert failure is None


def test_marks_name_arguments_within_arguments() -> None:
    guard = "tensor 'sample' size mismatch at index 2. expected 8, actual 16"
    row = make_recompile(
        guard,
        "shape",
        tried=("mark_dynamic",),
        stopped_by=("mark_dynamic",),
        marked={"sample": (2, 3), "added['ids']": (0,), "residuals[1]": (2,)},
    )
    code = written("mark-dynamic", recorded((), (row,)))
    assert "{('sample',): (2, 3), ('added', 'ids'): (0,), ('residuals', 1): (2,)}" in code.optimize


@pytest.mark.slow
def test_the_limit_is_no_longer_reached() -> None:
    before, after = seen()["limit"]
    assert any(row.limit_hit for row in before)
    assert after
    assert not any(row.limit_hit for row in after)


def test_a_number_compiles_once() -> None:
    plain, fixed, agree = seen()["numbers"]
    assert plain > 1
    assert fixed == 1
    assert agree


def test_settings_hold_during_the_call_alone() -> None:
    assert seen()["config"] == torch._dynamo.config.get_config_copy()


def test_a_named_tuple_reads_like_the_object_and_undoing_is_taking_it_off() -> None:
    model = Sampling()
    row = make_break("x", site=make_site("my/model.py", 12, function="__post_init__"))
    code = find_recipe("tuple-outputs").code(recorded((row,)), make_report(BAD["GRB003"]).findings)
    assert isinstance(code, Code)
    with in_force(code, SimpleNamespace(unet=model)):
        made = model(torch.ones(2))
        assert torch.equal(made.sample, made[0])
        assert torch.equal(made.sample, torch.full((2,), 2.0))
        assert type(model(torch.ones(2), return_dict=False)) is tuple
    fits = find_recipe("tuple-outputs").fits
    assert fits is not None
    assert fits(SimpleNamespace(components={"unet": Sampling()})) is None
    assert fits(SimpleNamespace(components={"unet": nn.Linear(2, 2)})) is not None


@pytest.mark.slow
def test_a_probe_captures_under_the_settings_of_the_call() -> None:
    from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks

    call = tiny.denoising()
    call.pipe.unet.register_forward_hook(planted.talk)
    before = probe_graph_breaks(call, None)["graph_breaks"]
    code = written("quiet-in-graph", recorded(before))
    call.around = lambda: in_force(code)
    settings = torch._dynamo.config.get_config_copy()
    # What was captured under other settings is not taken from the cache.
    assert probe_graph_breaks(call, None)["graph_breaks"] == ()
    assert torch._dynamo.config.get_config_copy() == settings


# --- which fixes are named -------------------------------------------------------------------------------


@pytest.mark.parametrize("code", BAD)
def test_every_finding_names_fixes_that_there_are(code: str) -> None:
    (finding,) = [f for f in make_report(BAD[code]).findings if f.rule == code]
    known = recipes()
    assert set(finding.fixes) <= set(known)
    assert bool(finding.fixes) == (code not in ("GRB009", "GRB010", "GRB015"))
    for key in finding.fixes:
        made = known[key].code(BAD[code], [finding])
        if isinstance(made, Code) and known[key].fix.safety is Safety.ADVICE:
            compile(made.shown.replace("return ", ""), key, "exec")


def test_hooks_for_offloading_are_taken_off_with_it() -> None:
    hook = make_break("x", site=make_site("accelerate/hooks.py", 171), in_hook=True)
    assert for_break(hook) == ("replace-offload",)
    own = make_break("x", context="builtin print", in_hook=True, site=make_site("my/hooks.py", 3))
    assert kind_of(own) == "hook"
    assert for_break(replace(own, cause="Failed to trace builtin print")) == (
        "quiet-in-graph",
        "hook-outside",
    )


def test_a_progress_bar_is_switched_off() -> None:
    row = make_break("Attempted to call function marked as skipped", context="tqdm.std.tqdm.update")
    assert for_break(row) == ("no-progress-bar",)


def test_shapes_are_cured_as_was_tried() -> None:
    tried = ("dynamic=True", "mark_dynamic", "use_duck_shape=False")
    guard = "tensor 'x' size mismatch at index 2. expected 8, actual 16"

    def keys(*stopped: str) -> tuple[str, ...]:
        return for_recompile([make_recompile(guard, "shape", tried=tried, stopped_by=stopped)])

    assert keys("dynamic=True", "mark_dynamic") == ("dynamic-shapes",)
    assert keys("mark_dynamic") == ("mark-by-hand",), "nothing says what was marked"
    assert keys() == ()
    row = make_recompile(guard, "shape", tried=tried, stopped_by=("use_duck_shape=False",))
    assert "use_duck_shape=False" in written("dynamic-shapes", recorded((), (row,))).around


def test_a_lora_scale_is_merged() -> None:
    guard = "unet.attn.to_q.scaling['one'] == 1.0"
    assert for_recompile([make_recompile(guard, "scalar")]) == ("fuse-lora",)


def test_a_string_is_no_number() -> None:
    assert for_recompile([make_recompile("style == 'oil'", "scalar")]) == ()


def test_what_does_not_apply_says_why() -> None:
    empty = recorded((), ())
    for key in ("dynamic-shapes", "mark-dynamic", "more-versions", "numbers-as-tensors", "tuple-outputs"):
        assert isinstance(find_recipe(key).code(empty, ()), Skipped)


def test_only_advice_is_not_tried() -> None:
    run = {r.fix.key for r in RECIPES if r.fix.safety is not Safety.ADVICE}
    assert run == {
        *SETTLED.values(),
        "tuple-outputs",
        "numbers-as-tensors",
        "dynamic-shapes",
        "mark-dynamic",
        "more-versions",
    }
