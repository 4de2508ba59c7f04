"""One screen: the answer, the table, the commands; the same finding on top of every view."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof import scan
from diffprof.judge.figures import card_call_ms
from diffprof.judge.judging import judge_again, load_judged
from diffprof.judge.plan import make_plan
from diffprof.judge.summary import summarized
from diffprof.model import units
from diffprof.model.fix import Safety
from diffprof.model.plain import width
from diffprof.model.recording import Grade, MemoryUse, Unseen
from diffprof.model.report import Report
from diffprof.model.summary import Action, Answer, ShortSteps
from diffprof.views import render
from diffprof.views.brief import LINES, render_brief
from diffprof.views.verdict import folded, headline_finding, verdict
from tests import builders
from tests.builders import make_finding, make_recording, make_report, make_site

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"
NAMES = ("sdxl-ddim-a100", "sdxl-ddim-a100-fixed", "sdxl-ddim-h100", "tiny-sdxl-cpu")


@pytest.fixture(scope="module", params=NAMES)
def sample(request: pytest.FixtureRequest) -> Report:
    return load_judged(SAMPLES / request.param)


def test_a_sample_fits_a_screen(sample: Report) -> None:
    lines = render(sample, "text", columns=80).splitlines()
    assert len(lines) <= LINES
    assert max(map(width, lines)) <= 80


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
@pytest.mark.parametrize("name", builders.HARD)
def test_a_hard_report_fits_a_screen(name: str, columns: int) -> None:
    lines = render(summarized(builders.HARD[name]()), "text", columns=columns).splitlines()
    assert len(lines) <= LINES or columns < 80
    assert max(map(width, lines)) <= columns


def test_verdict_first_row_first_fix_and_page_name_the_same_finding(sample: Report) -> None:
    first = headline_finding(sample)
    assert first == sample.findings[0]
    top = sample.actions[0]
    row = render(sample, "text", columns=200).splitlines()
    assert any(line.startswith(top.title) for line in row)
    plan = make_plan(sample)
    if top.fix is not None and not top.changes_picture:
        assert plan.listed[0].fix == top.fix
    assert first.rule in verdict(sample).why
    page = render(sample, "html")
    assert first.rule in page[: page.index("</header>")]


NOTHING = Answer()


def timed(
    ms: float,
    answer: Answer = NOTHING,
    actions: tuple[Action, ...] = (),
    memory: MemoryUse | None = None,
    **target: object,
) -> Report:
    """A report whose call takes so long."""
    recording = make_recording(syncs=(), memory=memory)
    recording = builders.replace_target(make_report(recording=recording), **target).recording
    answer = replace(answer, call_ms=ms, grade="simulated")
    return replace(make_report(recording=recording), verdict=answer, actions=actions)


def action(rule: str, fix: str, safety: Safety) -> Action:
    return Action(findings=(0,), rule=rule, title=fix, fix=fix, safety=safety, saves_ms=1.0)


EXACT = action("SYN002", "host-timesteps", Safety.EXACT)
ROUNDING = action("SET011", "compile", Safety.NUMERIC)
CHANGES = action("SET001", "bfloat16", Safety.LOSSY)


@pytest.mark.parametrize(
    ("actions", "kept", "lossy", "said"),
    [
        ((), 2000.0, None, "2 s a call of 4 steps (simulated); nothing was found that is worth doing."),
        ((EXACT,), 1900.0, None, "2 s a call of 4 steps (simulated); 1.9 s without changing the picture."),
        (
            (ROUNDING, CHANGES),
            1000.0,
            500.0,
            "2 s a call of 4 steps (simulated); 1 s with the picture the same within rounding, "
            "500 ms with bfloat16.",
        ),
        ((CHANGES,), 2000.0, 500.0, "2 s a call of 4 steps (simulated); 500 ms with bfloat16."),
    ],
)
def test_the_answer_says_now_and_then(
    actions: tuple[Action, ...], kept: float, lossy: float | None, said: str
) -> None:
    report = timed(2000.0, Answer(kept_ms=kept, lossy_ms=lossy), actions)
    findings = tuple(make_finding(each.rule) for each in actions)
    assert verdict(replace(report, findings=findings)).headline == said


def test_the_answer_is_of_one_image() -> None:
    top = verdict(timed(2000.0, Answer(kept_ms=2000.0), makes="image", made=4))
    assert top.headline.startswith("500 ms an image of 4 steps, 2 s a call of 4 images (simulated); ")
    assert verdict(timed(2000.0, makes="clip")).headline.startswith("2 s a clip of 4 steps")


def test_a_call_with_work_that_is_in_no_figure_takes_at_least_so_long() -> None:
    """What a CUDA graph replays is not seen on a simulated GPU."""
    report = timed(2000.0)
    replayed = Unseen(what="a CUDA graph", why="replayed", kind="untimed")
    recording = replace(report.recording, unseen=(replayed,))
    assert verdict(replace(report, recording=recording)).headline.startswith("At least 2 s a call")


def test_waits_that_were_asked_for_are_the_verdict() -> None:
    report = summarized(load_judged(SAMPLES / "sdxl-ddim-a100"), about=("SYN001", "SYN002"))
    assert verdict(report).headline.startswith("The CPU waits for the GPU")
    shown = render(report, "text", columns=80)
    assert "SYN002" in shown
    assert "Compile the denoiser" not in shown


def test_what_is_not_priced_is_no_zero() -> None:
    report = summarized(make_report(make_finding(fixes=(), advice="Keep it on the host.")))
    shown = render(report, "text", columns=80)
    assert "SYN001: Keep it on the host." in shown
    assert "unknown  unknown  hand" in shown
    assert "0 ms" not in shown


def test_a_wide_saving_leaves_room_for_who_does_it() -> None:
    """No column is cut; a title that is too long goes on below, and what saves least gives way to it."""
    long = replace(
        CHANGES, title="Quantize the linears that gain by it to INT8, in all models", saves_ms=19.5
    )
    rows = (replace(ROUNDING, after_ms=1080.0), replace(long, after_ms=352.0))
    report = timed(2660.0, actions=rows)
    lines = render(replace(report, findings=(make_finding(),)), "text", columns=80).splitlines()
    heading = next(line for line in lines if line.startswith("What to do"))
    assert heading.split()[-1] == "by"
    row = next(n for n, line in enumerate(lines) if line.startswith("Quantize"))
    assert lines[row].endswith("fix --lossy")
    assert lines[row + 1] == "  to INT8, in all models"
    assert any(line.startswith("Compiling takes") for line in lines)
    assert max(map(width, lines)) <= 80
    many = tuple(replace(long, place="a.py:1", saves_ms=9.0 - n) for n in range(8))
    full = timed(2660.0, actions=many)
    lines = render(replace(full, findings=(make_finding(),)), "text", columns=80).splitlines()
    assert len(lines) <= LINES
    assert not any("…" in line for line in lines)
    assert "more finding" in lines[[n for n, line in enumerate(lines) if line == "  a.py:1"][-1] + 1]


@pytest.mark.parametrize(("lines", "told"), [(6, 2), (8, 1), (9, 0)])
def test_of_what_is_done_by_hand_the_longest_is_named_by_its_rule_first(lines: int, told: int) -> None:
    """So that all rows fit; lines: of the rows beside the two by hand. told: how many have their advice."""
    by_hand = replace(EXACT, fix=None, safety=None, place="b.py:1")
    short = replace(
        by_hand, rule="SYN001", title="Compute the step's size on the CPU, before the loop begins."
    )
    long = replace(by_hand, rule="KRN006", title="Put each convolution of three dimensions " * 5)
    others = [replace(EXACT, title="Keep it", place="a.py:1")] * (lines // 2) + [EXACT] * (lines % 2)
    report = timed(2660.0, actions=(*others, short, long))
    report = replace(report, findings=(make_finding(),), path="traces/20260101-000000-x")
    shown = " ".join(render_brief(report, columns=80).split())
    named = ("SYN001: value-read", "KRN006: layout-conversion")
    assert [name in shown for name in named] == [told == 0, told < 2]


def test_advice_that_names_no_line_is_cut_instead() -> None:
    """A rule's name alone says nothing to do."""
    advice = replace(
        EXACT, fix=None, safety=None, rule="KRN001", title="Run a larger batch: " + "then it is " * 20
    )
    report = timed(2660.0, actions=(*[replace(EXACT, place="a.py:1", title="Keep it " * 8)] * 6, advice))
    lines = render_brief(replace(report, findings=(make_finding(),)), columns=80).splitlines()
    assert len(lines) <= LINES
    assert [line.split("  ")[0] for line in lines if "KRN001" in line] == [
        "KRN001: Run a larger batch: then it is then it is then it…"
    ]


def test_fewer_steps_than_the_model_cards_are_said_with_what_its_call_takes() -> None:
    answer = Answer(kept_ms=2000.0, card_ms=30_000.0)
    report = timed(2000.0, answer, makes="image", made=2, card_steps=50)
    assert verdict(report).headline.endswith("At the model card's 50 steps: about 15 s now.")
    answer = replace(answer, kept_ms=1000.0, card_kept_ms=12_000.0, card_lossy_ms=5000.0, margin=0.18)
    told = verdict(timed(2000.0, answer, makes="image", made=2, card_steps=50)).headline
    assert told.endswith("At the model card's 50 steps: about 15 s now, 6 s and 2.5 s then.")
    assert "(simulated, ± 18%)" in told
    assert "4 of the model card's 50 steps (--steps)" in " ".join(render(report, "text", columns=80).split())


@pytest.mark.nightly
def test_the_model_cards_call_is_that_of_a_scan_at_its_steps() -> None:
    few, many = scan("tiny-sdxl", device="sim:h100"), scan("tiny-sdxl", device="sim:h100", steps=8)
    target = replace(few.recording.target, card_steps=8)
    assert card_call_ms(replace(few.recording, target=target)) == pytest.approx(
        many.verdict.call_ms, rel=1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "more"),
    [
        ("sim:a100-80gb", {}),
        ("sim:t4", {"dtype": "float16"}),
        pytest.param("sim:a100-80gb", {"scheduler": "UniPCMultistepScheduler"}, marks=pytest.mark.nightly),
    ],
)
def test_so_are_those_with_the_fixes(
    device: str, more: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change is costed with a step as often as is lacking, where two are alike, or nearly."""
    many = scan("tiny-sdxl", device=device, steps=12, **more).verdict
    monkeypatch.setattr("diffprof.targets.checkpoint._card_steps", lambda *_: 12)
    few = scan("tiny-sdxl", device=device, steps=4, **more)
    assert len(few.actions) > 1
    told = few.verdict.card_ms, few.verdict.card_kept_ms
    assert told == pytest.approx((many.call_ms, many.kept_ms), rel=0.06)


def test_a_call_of_unknown_length_is_a_span() -> None:
    short = ShortSteps(site=make_site(), steps=3, of=4, whole_ms=8000.0)
    report = timed(2000.0, replace(NOTHING, short_steps=short), makes="image", made=2)
    headline = verdict(report).headline
    assert headline.startswith("1 s to 4 s an image of 4 steps, 2 s to 8 s a call of 2 images (simulated)")
    assert f"3 of 4 steps are cut short at {make_site().file}:{make_site().line}" in headline
    told = replace(report.verdict or NOTHING, finding=0)
    assert folded(replace(report, findings=(make_finding(),), verdict=told)).headline.startswith(
        "1 s to 4 s an image (simulated)"
    )


def test_a_call_that_does_not_fit_leads_to_the_recipes_that_make_it_fit() -> None:
    """And no row claims a call that none of the others alone makes possible."""
    memory = MemoryUse(grade="simulated", weights_bytes=10, peak_bytes=30, capacity_bytes=20)
    report = summarized(timed(2000.0, memory=memory))
    assert "diffprof fit sdxl --device a100-80gb" in render(report, "text", columns=80)
    assert all(each.after_ms is None for each in report.actions)


def test_what_makes_room_claims_no_time_of_a_call_that_cannot_run() -> None:
    memory = MemoryUse(grade="simulated", weights_bytes=10, peak_bytes=30, capacity_bytes=20)
    room = replace(CHANGES, makes_room=True)
    report = timed(2000.0, actions=(room, ROUNDING), memory=memory)
    shown = render(replace(report, findings=(make_finding(),)), "text", columns=80)
    row = next(line for line in shown.splitlines() if line.startswith(room.title))
    assert "memory" in row
    assert "ms" not in row
    assert "Times are those of a call that had the memory; as it is, it can't run." in shown


def test_every_time_of_the_table_has_a_grade() -> None:
    """In its heading; what is spent once in a process has another one than what it saves in a call."""
    simulated = tuple(replace(each, grade="simulated") for each in (EXACT, ROUNDING))
    once = replace(CHANGES, saves_ms=None, once_ms=3770.0, grade=None)
    report = replace(timed(2000.0, actions=(*simulated, once)), findings=(make_finding(),))
    shown = render(report, "text", columns=80)
    assert "What to do (times simulated)" in shown
    assert "3.77 s once" in shown
    assert "What is said to come once is spent in the first call of a process (measured)." in shown
    measured = replace(report, actions=(replace(EXACT, grade=Grade.MEASURED),))
    assert "What to do (times measured, saving modelled)" in render(measured, "html")


def test_the_cause_and_the_first_row_give_the_same_figure(sample: Report) -> None:
    first = sample.actions[0]
    if first.saves_ms is not None:
        assert f"saves about {units.duration(first.saves_ms)} a call" in verdict(sample).why


# --- several pipelines ------------------------------------------------------------------------------------


def base_and_refiner() -> Report:
    """A script's report whose second pipeline takes as long as the first, and has more to save."""
    base = judge_again(builders.one_of_everything())
    assert base.verdict is not None
    more = replace(base.verdict, kept_ms=0.0)
    refiner = replace(builders.replace_target(base, pipeline="Refiner"), verdict=more)
    return replace(base, pipelines=(refiner,))


def test_several_pipelines_are_one_answer_and_a_line_each() -> None:
    report = base_and_refiner()
    answer, name = report.verdict, report.recording.target.pipeline
    assert answer is not None
    assert answer.call_ms is not None
    top = verdict(report)
    each, both = units.duration(answer.call_ms), units.duration(2 * answer.call_ms)
    assert f"{both} a call of each ({answer.grade}): {each} {name} and {each} Refiner" in top.headline
    assert top.why.startswith("Refiner: ")
    assert "diffprof fix" not in top.next
    shown = render_brief(report)
    assert len(shown.splitlines()) <= LINES
    assert f"\n{name}: {each} a call" in shown
    assert "Remove" not in shown, "what saves is unknown"
    waits = replace(report.actions[0], title="Remove it.", saves_ms=40.0, place="a.py:3, 4")
    shown = render_brief(replace(report, actions=(waits,)))
    assert "Remove it: 40 ms, a.py:3, 4." in " ".join(shown.split())
    assert len(shown.splitlines()) <= LINES
    (refiner,) = report.pipelines
    told = refiner.findings[refiner.verdict.finding]
    fixed = [
        replace(a, fix="tf32") if refiner.findings[a.findings[0]] == told else a for a in refiner.actions
    ]
    other = replace(refiner, actions=tuple(fixed))
    stored = replace(report, actions=(), pipelines=(other,), path="traces/20260101-000000-both")
    assert "`diffprof fix --apply --select tf32` does it" in verdict(stored).next, "of the second pipeline"
    assert "Try them on a copy" in render_brief(stored)


def test_times_of_another_pipeline_with_a_long_name_are_not_cut() -> None:
    report = base_and_refiner()
    name = "StableDiffusionXLControlNetUnionImg2ImgPipelineOfRegions"
    report = builders.replace_target(report, pipeline=name)
    told = folded(replace(report, pipelines=())).headline
    assert len(name + told) > 78
    shown = render_brief(report)
    assert f"{name}: {told} " in " ".join(shown.split())
    assert len(shown.splitlines()) <= LINES


def test_each_pipeline_has_its_section_in_every_view() -> None:
    report = base_and_refiner()
    codes = len(report.findings)
    text = render(report, "text", columns=100, verbose=True)
    assert "Another pipeline of the script: Refiner" in text
    assert text.count("In the denoising loop:") == 2
    page = render(report, "html")
    assert '<section id="pipeline-2">' in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert render(report, "markdown").count("\n### Refiner\n") == 1
    runs = json.loads(render(report, "sarif"))["runs"]
    assert [len(run["results"]) for run in runs] == [codes, codes]
    assert len({run["automationDetails"]["id"] for run in runs}) == 2
