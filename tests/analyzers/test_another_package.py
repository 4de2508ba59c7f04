"""An analyzer that another package brings is listed, run, judged and shown like diffprof's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from diffprof.judge import registry, rules
from diffprof.model.errors import UsageError

TOY = Path(__file__).parent / "toy"
PARTS = ("unet", "vae")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its package is installed for the test."""
    monkeypatch.syspath_prepend(str(TOY))
    registry.analyzers.cache_clear()
    yield registry.find_analyzer("toy")
    rules._REGISTRY.pop("TOY001", None)
    for name in [name for name in sys.modules if name.startswith("toy_analyzer")]:
        del sys.modules[name]
    monkeypatch.undo()
    registry.analyzers.cache_clear()


@pytest.fixture
def report(toy: Any) -> Any:
    import diffprof

    return diffprof.scan(
        "tiny-sdxl", device="sim:a100-80gb", steps=1, analyzers=("toy",), settings={"least": 1000}
    )


def test_it_runs_and_is_judged(report: Any) -> None:
    rows = report.recording.section("toy_weights")
    assert report.recording.analyzers == ("toy",)
    assert {row["component"] for row in rows} == {"unet", "vae", "text_encoder", "text_encoder_2"}
    counts = [row["parameters"] for row in rows]
    assert counts == sorted(counts, reverse=True)
    fires = 2 * counts[0] > sum(counts)
    assert [finding.rule for finding in report.findings] == ["TOY001"] * fires


def test_it_is_shown_in_text_page_and_viewer(report: Any, tmp_path: Path) -> None:
    from diffprof.views.html import render_html
    from diffprof.views.text import render_text
    from diffprof.views.tui.report_screen import ReportScreen

    most = f"{report.recording.section('toy_weights')[0]['parameters']:,}"
    for page in (render_text(report), render_html(report)):
        assert "Heavy parts" in page
        assert most in page
    sheet = ReportScreen(report, tmp_path).tabs["Heavy parts"]()
    assert [column.title for column in sheet.columns] == ["component", "parameters"]  # type: ignore[attr-defined]


def test_it_survives_being_stored(report: Any) -> None:
    from diffprof.model.report import from_json, to_json

    again = from_json(to_json(report))
    assert again.recording.section("toy_weights") == report.recording.section("toy_weights")


def test_commands_know_it() -> None:
    """In a process that finds the package on its path."""
    run = [sys.executable, "-m", "diffprof"]
    where = {"PYTHONPATH": f"{TOY}:{Path(__file__).parents[2]}", "PATH": "", "NO_COLOR": "1"}

    def said(*args: str) -> str:
        return subprocess.run([*run, *args], env=where, capture_output=True, text=True, check=True).stdout

    assert "--least-parameters" in said("scan", "--help")
    assert "toy" in said("scan", "--help")
    listed = json.loads(said("rules", "--format", "json"))
    assert any("TOY001" in json.dumps(each) for each in listed)
    assert "heavy-component" in said("explain", "TOY001")


def test_a_name_that_is_taken_is_refused(toy: Any) -> None:
    with pytest.raises(ValueError, match="toy has the name or the prefix TOY already"):
        registry._checked(toy, [toy])


def test_one_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[diffprof.analyzers]\nbroken = not_there:ANALYZER\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.analyzers.cache_clear()
    with pytest.raises(UsageError, match="The analyzer 'broken'"):
        registry.analyzers()
    monkeypatch.undo()
    registry.analyzers.cache_clear()


def test_its_own_are_imported_without_torch() -> None:
    code = "import sys, diffprof.judge.registry as a; a.analyzers(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
