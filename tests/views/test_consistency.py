"""One finding on top of every view, and an answer on one screen: over the corpus of tiny pipelines."""

from __future__ import annotations

import pytest

from diffprof import scan
from diffprof.corpus import CASES
from diffprof.judge.plan import make_plan
from diffprof.model.plain import width
from diffprof.model.report import Report
from diffprof.views import render
from diffprof.views.brief import LINES
from diffprof.views.verdict import headline_finding, verdict

NAMES = [name for name, entry in CASES.items() if "offload" not in name]
CHOSEN = NAMES[:: len(NAMES) // 30][:30]
FAST = ("sana", "stable-audio")
"""Tried with the suite; the others take a minute."""


def scanned(name: str) -> Report:
    def make() -> object:
        case = CASES[name].build()
        return case.pipe, dict(case.kwargs)

    return scan(make, device="sim:a100-80gb")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in FAST else pytest.mark.nightly)
        for name in sorted({*CHOSEN, *FAST})
    ],
)
def test_verdict_row_fix_and_page_are_about_one_finding(name: str) -> None:
    report = scanned(name)
    first, top = headline_finding(report), report.actions[0]
    assert first is report.findings[0]
    assert (top.findings[0], report.verdict and report.verdict.finding) == (0, 0)
    assert first.rule in verdict(report).why
    keeping = [action for action in report.actions if not action.changes_picture]
    savings = [action.saves_ms or 0.0 for action in keeping]
    assert savings[0] == max(savings), "of waits that hide each other the last may save more than the others"
    then = [action.after_ms for action in keeping if action.after_ms is not None]
    assert then == sorted(then, reverse=True)
    page = render(report, "html")
    assert first.rule in page[: page.index("</header>")]
    plan = make_plan(report)
    fixes = [action.fix for action in keeping if action.fix]
    assert plan.listed[0].fix == fixes[0]
    shown = render(report, "text", columns=80).splitlines()
    heads = next(n for n, line in enumerate(shown) if line.startswith("What to do"))
    row = next(line for line in shown[heads:] if line.endswith((" fix", " hand", " --patch", " --lossy")))
    assert row.removeprefix(f"{top.rule}: ").startswith(top.title[:25])
    assert len(shown) <= LINES
    assert max(map(width, shown)) <= 80
