"""Every text of every section, plan, outcome and comparison is data, in every view."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.judge.comparing import compare
from diffprof.model.fix import Plan
from diffprof.model.report import Report, save_report
from diffprof.views import FORMATS, render
from diffprof.views.comparison import FORMS, render_comparison
from diffprof.views.quantization import render_quantization
from diffprof.views.tensorboard.files import EVENT_FILE, prepare
from diffprof.views.tuning import render_applied, render_plan
from tests.views.poison import TEXTS, poisoned, whole
from tests.views.tensorboard import reading
from tests.views.test_hostile import ATTRIBUTES, TAGS, _Page, hidden

JOINERS = {"\u200c", "\u200d"}
"""They hold emoji and letters together."""


@pytest.fixture(params=TEXTS)
def text(request: pytest.FixtureRequest) -> str:
    return TEXTS[request.param]


@pytest.fixture
def report(text: str) -> Report:
    return poisoned(whole(), text)


def check(shown: str) -> None:
    assert hidden(shown) <= JOINERS
    shown.encode()


@pytest.mark.parametrize("form", FORMATS)
def test_reports(report: Report, form: str) -> None:
    shown = render(report, form)
    check(shown)
    if form in ("json", "sarif"):
        json.loads(shown)
    if form == "html":
        page = _Page()
        page.feed(shown)
        assert page.tags <= TAGS
        assert {key for key, _ in page.attributes} <= ATTRIBUTES
        assert "url(" not in shown


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_plans_and_outcomes(report: Report, form: str) -> None:
    assert isinstance(report.plan, Plan)
    check(render_plan(report, report.plan, form))
    check(render_applied(report, None, form))


@pytest.mark.parametrize("form", FORMS)
def test_comparisons(report: Report, form: str) -> None:
    shown = render_comparison(compare(whole(), report), form)
    check(shown)
    if form == "github":
        assert all(line.startswith("::") for line in shown.splitlines())


@pytest.mark.parametrize("form", ["text", "json", "markdown", "python"])
def test_quantization_tables(report: Report, form: str) -> None:
    check(render_quantization(report.recording, form))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(name, marks=pytest.mark.nightly if len(text) > 300 else ())
        for name, text in TEXTS.items()
    ],
    indirect=True,
)
def test_tensorboard(report: Report, tmp_path: Path) -> None:
    from tensorboard import plugin_util

    save_report(replace(report, after=None), tmp_path / "run")
    assert prepare(tmp_path / "run")
    for name, markdown in reading.texts(tmp_path / "run").items():
        shown = str(plugin_util.markdown_to_safe_html(markdown))
        check(markdown.replace("\r", ""))
        assert not re.search(r"<(script|img|iframe|a)\b", shown), name
    rows = sorted((tmp_path / "run" / "fixes").iterdir())
    assert len(rows) == len(report.outcomes or ())
    for row in rows:
        assert (row / EVENT_FILE).is_file()
        for value in reading.hparams(row).values():
            check(str(value))
    for tag in reading.tags(tmp_path / "run", "scalars"):
        check(tag)
