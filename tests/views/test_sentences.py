"""Sentences that a reader stopped at are in no output: of samples, hard reports, every rule's example, their
plans, and two of them compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffprof.judge.comparing import compare
from diffprof.judge.judging import load_judged
from diffprof.judge.judging import make_report as judged
from diffprof.judge.plan import make_plan
from diffprof.judge.rules import all_rules
from diffprof.model.report import Report
from diffprof.views import render
from diffprof.views.comparison import FORMS, render_comparison
from diffprof.views.tuning import render_plan
from tests import builders
from tests.judge.test_rules_registry import examples

SAMPLES = Path(__file__).parents[2] / "traces" / "samples"

STUMBLES = re.compile(
    "|".join(
        (
            r"removing it saves",
            r"the rest does \d+ times",
            r"the trace does not tell which",
            r"rests on nothing",
            r"What it is for is gone",
            r"selected fix(es)? .* (is|are) expected",
            r"better, [\d.]+ of it",
            r"as fast as before",
            r"at no single place",
            r"findings? as before",
            r"Went \(",
            r"reckoned",
            r"only such a one",
            r"Nobody knows",
            r"With the wait go",
            r"Not known before it is tried",
            r"a reason of its own",
            r"cost a step what they take",
            r"not measured \(eager",
            r"has the whole story",
            r"\d(e-\d+) ?%",
            r"went on with (every|all|each) .* (is|are|differ)\b",
            r"[\d,]{5,} us\b",
            r"\d [GM]B\b(?!/s)",
            r"\.\.(?=[\"\s]|$)(?<!\.\.\.)",
            r"\ba call of a trace\b",
            r"\bsaves about 0 ms\b",
            r"\(unknown\)",
        )
    ),
    re.MULTILINE,
)
"""Of issues and reviews; and figures that nobody reads: 1.3e-05 %, 204,204 us, powers of ten for memory."""


def reports() -> Iterator[tuple[str, Report]]:
    for folder in sorted(SAMPLES.glob("*/report.json")):
        yield folder.parent.name, load_judged(folder.parent)
    for name, build in builders.HARD.items():
        if name != "ugly":  # its names are sentences of their own
            yield name, build()
    for rule in all_rules():
        yield rule.code, judged(examples(rule.analyzer, "BAD")[rule.code])


def outputs(report: Report) -> Iterator[tuple[str, str]]:
    for form in ("text", "markdown", "github", "sarif", "html"):
        yield form, render(report, form, columns=100)
    yield "verbose", render(report, "text", columns=100, verbose=True)
    yield "plan", render_plan(report, make_plan(report), "text", columns=100)


def stumbles(text: str) -> list[str]:
    """Each with what stands around it."""
    return [text[max(0, found.start() - 60) : found.end() + 30] for found in STUMBLES.finditer(text)]


@pytest.mark.slow
def test_nothing_to_stumble_over() -> None:
    wrong = {
        (name, form): found
        for name, report in reports()
        for form, text in outputs(report)
        if (found := stumbles(text))
    }
    assert wrong == {}


@pytest.mark.parametrize("form", FORMS)
def test_nor_in_a_comparison(form: str) -> None:
    before, after = (load_judged(SAMPLES / name) for name in ("sdxl-ddim-a100", "sdxl-ddim-a100-fixed"))
    for one, other in ((before, after), (after, before), (before, before)):
        assert stumbles(render_comparison(compare(one, other), form, columns=100)) == []


def test_a_rules_text_neither() -> None:
    assert not [rule.code for rule in all_rules() if stumbles(rule.doc)]
