from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffprof.judge.judging import make_report
from diffprof.model.recording import SCHEMA
from diffprof.model.report import load_report, save_report
from diffprof.views import FORMATS
from tests import builders
from tests.cli.conftest import Run


@pytest.mark.parametrize("form", FORMATS)
def test_every_format(run: Run, stored: Path, form: str) -> None:
    result = run("show", stored.name, "--format", form)
    assert result.exit_code == 0
    assert "SYN001" in result.stdout
    assert result.stderr == ""


def test_the_newest_is_shown_judged_again(run: Run, stored: Path) -> None:
    recording = builders.make_recording(builders.make_sync(in_loop=False))
    stale = builders.make_report(builders.make_finding("OLD001", "gone"), recording=recording)
    save_report(stale, stored.with_name("20260102-030406-x"))
    shown = json.loads(run("show", "--format", "json").stdout)
    expected = [finding.rule for finding in make_report(recording).findings]
    assert [finding["rule"] for finding in shown["findings"]] == expected
    assert "OLD001" not in expected
    assert load_report(stored.with_name("20260102-030406-x")).findings[0].rule == "OLD001"


def test_verbose_adds_the_calls(run: Run, stored: Path) -> None:
    assert "called from" not in run("show").stdout
    assert "called from diffusers/pipelines/x.py:10 in __call__" in run("show", "-v").stdout


def test_colour_only_where_asked_for(run: Run, stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in run("show").stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run("show").stdout
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in run("show").stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a diffprof report"),
        ('{"schema": 1, "recording": {', "is not a diffprof report"),
        (f'{{"schema": {SCHEMA + 1}}}', f"has schema {SCHEMA + 1}"),
    ],
)
def test_a_report_that_cannot_be_read(run: Run, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "r.json").write_text(content)
    result = run("show", "r.json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 2


def test_no_run_yet_and_unknown_run(run: Run) -> None:
    result = run("show")
    assert result.exit_code == 2
    assert "diffprof scan" in result.stderr
    result = run("show", "nope")
    assert result.exit_code == 2
    assert "There is no run 'nope'" in result.stderr


def test_the_folder_of_a_ladder_shows_its_table(run: Run) -> None:
    folder = str(Path(__file__).parents[2] / "traces" / "samples" / "sdxl-ladder-a100")
    shown = run("show", folder)
    assert shown.exit_code == 0
    assert "scaled_dot_product_attention" in shown.stdout
    assert json.loads(run("show", folder, "--format", "json").stdout)["rungs"]
    refused = run("show", folder, "--format", "sarif")
    assert refused.exit_code == 2
    assert "A ladder has no sarif form" in refused.stderr
