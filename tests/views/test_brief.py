"""One screen: the answer, the table, the commands; the same finding on top of every view."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffprof.judge.judging import load_judged
from diffprof.judge.plan import make_plan
from diffprof.judge.summary import summarized
from diffprof.model.plain import width
from diffprof.model.report import Report
from diffprof.views import render
from diffprof.views.brief import LINES
from diffprof.views.verdict import headline_finding, verdict
from tests import builders
from tests.builders import make_finding, make_report

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
    assert sample.summary is not None
    action = sample.summary.actions[0]
    row = render(sample, "text", columns=200).splitlines()
    assert any(line.startswith(action.title) for line in row)
    plan = make_plan(sample)
    if action.fix is not None and not action.changes_picture:
        assert plan.listed[0].fix == action.fix
    assert first.rule in verdict(sample).why
    page = render(sample, "html")
    assert first.rule in page[: page.index("</header>")]


def test_the_answer_is_of_one_image_at_the_steps_of_the_call() -> None:
    report = load_judged(SAMPLES / "sdxl-ddim-a100")
    top = verdict(report)
    assert top.headline.startswith("465 ms a call of 3 steps (simulated); ")
    four = builders.replace_target(report, makes="image", made=4)
    assert verdict(four).headline.startswith("116 ms an image of 3 steps (simulated); ")


def test_no_lossless_step_is_not_called_a_saving() -> None:
    headline = verdict(load_judged(SAMPLES / "sdxl-ddim-a100-fixed")).headline
    assert "within rounding" not in headline
    assert headline.startswith("341 ms")


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
    assert "?" in shown
    assert "0 ms" not in shown
