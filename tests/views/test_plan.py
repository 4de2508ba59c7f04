"""The plan of fixes in every form: what is done first, then what is left out, advice last."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from diffprof.judge.plan import make_plan
from diffprof.model.fix import (
    NOT_SELECTED,
    Code,
    Difference,
    Fix,
    Outcome,
    Plan,
    PlanStep,
    Recipe,
    Safety,
    Stage,
    Status,
)
from diffprof.model.recording import Grade, MemoryUse
from diffprof.model.report import Report
from diffprof.views import render, words
from diffprof.views.markdown_text import LIMIT
from diffprof.views.tui.plan_pane import PlanPane, can_be_tried, total_line
from diffprof.views.tuning import expected, output_change, render_applied, render_plan
from tests import builders

ORDER = ["tables", "layout", "half", "distilled"]
"""Advice comes first and the lossy fix second by stage."""


def recipe(key: str, safety: Safety, stage: Stage) -> Recipe:
    fix = Fix(key=key, title=f"Do {key}", safety=safety, stage=stage)
    return Recipe(fix=fix, code=lambda recording, findings: Code(optimize=f"pipe.x = {key!r}"))


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    made = (
        recipe("distilled", Safety.ADVICE, Stage.MODEL),
        recipe("half", Safety.LOSSY, Stage.SCHEDULER),
        recipe("tables", Safety.EXACT, Stage.ATTENTION),
        recipe("layout", Safety.NUMERIC, Stage.LAYOUT),
    )
    monkeypatch.setattr("diffprof.judge.plan.recipes", lambda: {each.fix.key: each for each in made})
    return make_plan(builders.make_report(builders.make_finding(fixes=tuple(ORDER))))


def test_steps_keep_the_order_of_application_and_are_listed_as_one_reads(plan: Plan) -> None:
    assert [step.fix for step in plan.steps] == ["distilled", "half", "tables", "layout"]
    assert [step.fix for step in plan.listed] == ORDER


def test_text_numbers_them_in_that_order_with_a_box_for_what_can_be_tried(plan: Plan) -> None:
    text = render_plan(builders.make_report(), plan)
    heads = re.findall(r"^(\d+)\. (.{3})   (\S+) Do", text, re.MULTILINE)
    assert heads == [
        ("1", "[x]", "tables"),
        ("2", "[x]", "layout"),
        ("3", "[ ]", "half"),
        ("4", " · ", "distilled"),
    ]
    assert "  left out lossy: it changes the image; allow it with --lossy\n" in text
    assert "  advice   yours to decide; diffprof shows it and never applies it\n" in text
    assert "safety   advice" not in text


def test_what_makes_the_call_longer_says_what_it_costs(plan: Plan) -> None:
    step = replace(plan.steps[1], saves_ms=-356.0, saves_bytes=-(2**30), selected=True, grade=Grade.SIMULATED)
    slower = replace(plan, steps=(step,), before_ms=1000.0, after_ms=1356.0, grade=Grade.SIMULATED)
    text = " ".join(render_plan(builders.make_report(), slower).split())
    assert "saves nothing: it costs 356 ms per call (simulated), it takes 1 GiB of memory" in text
    assert expected(slower).endswith(
        "the 1 selected fix should bring it to 1,356 ms, 356 ms longer (simulated)."
    )
    assert words.saving(-2.0) == "costs about 2 ms a call"


def test_a_call_that_does_not_fit_says_so_first(plan: Plan) -> None:
    def report(gib: int) -> Report:
        memory = MemoryUse(grade=Grade.SIMULATED, peak_bytes=gib * 2**30, capacity_bytes=16 * 2**30)
        target = replace(builders.make_recording().target, kind="builtin", spec="sdxl")
        device = replace(builders.make_recording().device, kind="sim", spec="sim:t4", name="NVIDIA T4")
        recording = builders.make_recording(memory=memory, target=target, device=device)
        return replace(builders.make_report(recording=recording), outcomes=())

    said = (
        "Does not fit: needs 20 GiB in the call, the NVIDIA T4 has 16 GiB: 4 GiB short. "
        "`diffprof fit sdxl --device t4` finds how it fits, with code. "
        "Times are those of a call that had the memory."
    )
    for form in ("text", "markdown", "json"):
        whole = " ".join(render_plan(report(20), plan, form).split()).replace("\\", "")
        assert said in whole, form
        assert "does not fit" not in render_plan(report(15), plan, form).lower()
    text = render_plan(report(20), plan)
    assert text.index("Does not fit") < text.index("1. [x]")
    now = " ".join(render_applied(report(20), report(12)).split())
    assert "4 GiB short. With what was kept it fits. Times" in now
    now = " ".join(render_applied(report(20), report(18)).split())
    assert "With what was kept: does not fit: needs 18 GiB" in now
    assert "finds how it fits" in now


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ({"fixed": ("tables",)}, "--apply takes the run that this one came from"),
        ({"kind": "trace"}, "scan the target itself"),
        ({"kind": "object"}, "diffprof.optimize(pipe"),
    ],
)
def test_no_command_is_named_that_would_be_refused(plan: Plan, target: dict[str, Any], said: str) -> None:
    recording = builders.make_recording()
    recording = replace(recording, target=replace(recording.target, **target))
    text = " ".join(render_plan(builders.make_report(recording=recording), plan).split())
    assert said in text
    assert "--apply` tries" not in text


def test_every_form_has_them_in_that_order(plan: Plan) -> None:
    report = replace(builders.make_report(), plan=plan)
    for text in (render_plan(report, plan, "markdown"), render(report, "html")):
        places = [text.index(f"Do {name}") for name in ORDER]
        assert places == sorted(places)
        code = [text.index(name, text.index("pipe.x")) for name in ORDER]
        assert code == sorted(code)
    assert "advice: yours to decide" in render(report, "html")


def test_the_viewer_has_boxes_for_the_same(plan: Plan) -> None:
    pane = PlanPane(builders.make_report(), plan, Path("traces"))
    marks = {step.fix: "".join(text for _, text in pane._box(step)) for step in plan.listed}
    assert marks == {"tables": "[x]", "layout": "[x]", "half": "[ ]", "distilled": " · "}
    assert [step.fix for step in plan.steps if can_be_tried(step)] == ["half", "tables", "layout"]


def test_a_saving_that_nobody_knows_is_no_figure() -> None:
    def plan_of(*saves: float | None) -> Plan:
        steps = tuple(
            PlanStep(fix=str(n), title="x", safety=Safety.EXACT, stage=10, code="x", saves_ms=each)
            for n, each in enumerate(saves)
        )
        return Plan(steps=steps, before_ms=10.0, after_ms=8.0, grade=Grade.SIMULATED)

    def title(plan: Plan) -> str:
        return "".join(text for _, text in total_line(plan, {step.fix for step in plan.steps}, plan.after_ms))

    unknown, partly, known = plan_of(None, None), plan_of(2.0, None), plan_of(1.0, 1.0)
    assert expected(unknown) == (
        "One call takes 10 ms (simulated); "
        "what the 2 selected fixes would save is unknown until they are tried."
    )
    assert title(unknown) == "2 fixes checked: 10 ms now; what is saved shows when tried"
    assert expected(known) == (
        "One call takes 10 ms; the 2 selected fixes should bring it to 8 ms, 1.25x (simulated)."
    )
    assert expected(partly) == (
        f"{expected(known)} What 1 of them would save is unknown until they are tried."
    )
    assert title(partly).startswith("2 fixes checked: 10 ms → 8 ms, 1.25x, predicted (simulated)")


def test_markdown_fits_a_comment(plan: Plan) -> None:
    code = "x = 1\n" * 5_000
    long = replace(plan, steps=tuple(replace(step, code=code) for step in plan.steps))
    shown = render_plan(builders.make_report(), long, "markdown")
    assert len(shown) < LIMIT + 200
    assert "Cut to fit a comment: 3 more listings" in shown
    assert shown.count("```") == 2
    assert len(render_plan(builders.make_report(), plan, "markdown")) < 2_000


def test_long_code_keeps_its_statements() -> None:
    definitions = "import torch\n\n\ndef _shim(x):\n" + "".join(f"    x = x + {n}\n" for n in range(40))
    long = f"{definitions}    return x\n\n\n_shim(pipe.scheduler)\nwith _shim(1):\n    pipe(**kwargs)"
    step = PlanStep(fix="a", title="A", safety=Safety.EXACT, stage=30, code=long)
    text = render_plan(builders.empty(), Plan(steps=(step,)))
    assert "# 45 lines of imports and definitions" in text
    assert "    _shim(pipe.scheduler)\n    with _shim(1):\n        pipe(**kwargs)\n" in text
    assert "x = x + 3" not in text
    broken = render_plan(builders.empty(), Plan(steps=(replace(step, code="def (\n" * 40),)))
    assert "def (" in broken


def test_fixes_that_nobody_asked_for_are_one_line_and_no_part_of_the_count() -> None:
    def outcome(fix: str, status: Status, why: str = "", after_ms: float | None = None) -> Outcome:
        before_ms = None if after_ms is None else 10.0
        return Outcome(
            fix=fix,
            title=f"Do {fix}",
            safety=Safety.EXACT,
            status=status,
            why=why,
            before_ms=before_ms,
            after_ms=after_ms,
        )

    outcomes = (
        outcome("tf32", Status.KEPT, "It saves.", 5.0),
        outcome("compile", Status.SKIPPED, NOT_SELECTED),
        outcome("ssd-1b", Status.ADVICE, NOT_SELECTED),
        outcome("half", Status.SKIPPED, "lossy"),
    )
    text = render(replace(builders.empty(), outcomes=outcomes), "text", verbose=True)
    assert "Fixes tried (2)" in text
    assert "Not selected: compile, ssd-1b." in text
    assert "1 of 2 fixes kept: 10 ms -> 5 ms per call, 2.00x." in text
    assert "Do compile" not in text


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ({"tf32": Status.KEPT}, "1 of 1 fix kept."),
        (
            {"tf32": Status.KEPT, "bfloat16": Status.UNCHECKED},
            "1 of 2 fixes kept. Not kept, since unchecked: bfloat16 (--keep-unchecked keeps it).",
        ),
        (
            {"compile": Status.UNCHECKED, "bfloat16": Status.UNCHECKED, "tf32": Status.KEPT_UNCHECKED},
            "1 of 3 fixes kept. Kept unchecked: tf32. Not kept, since unchecked: compile, bfloat16 "
            "(--keep-unchecked keeps them).",
        ),
    ],
)
@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_the_summary_names_what_could_not_be_checked(
    statuses: dict[str, Status], said: str, form: str
) -> None:
    outcomes = tuple(
        Outcome(fix=fix, title=fix, safety=Safety.NUMERIC, status=status, why="for a reason")
        for fix, status in statuses.items()
    )
    shown = render(replace(builders.empty(), outcomes=outcomes), form, verbose=True)
    assert said in " ".join(shown.replace("\\", "").split())
    assert shown.count("since unchecked") == said.count("since unchecked")


def test_a_change_that_the_picture_does_not_show_is_that_of_the_latents() -> None:
    def said(**found: float) -> str:
        return output_change(Difference(compared_on="here", bit_equal=False, **found))

    assert said(max_abs=0.0, latents_max_abs=1e-6) == "max 0, latents max 1e-06, on here"
    assert said(max_abs=0.25, latents_max_abs=1.0) == "max 0.25, on here"
    assert said(latents_max_abs=1.0) == "latents max 1, on here"
