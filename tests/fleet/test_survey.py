"""A survey's rows are those of single scans, and the difference of two names the lines that changed."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from diffprof.cli.app import app
from diffprof.fleet.store import Store
from diffprof.fleet.surveying import DEVICE, survey
from diffprof.judge.survey import changes
from diffprof.model.errors import DiffprofError
from diffprof.model.survey import SurveyLine, SurveyRow
from diffprof.scanning.scan import scan_target
from diffprof.views.surveys import render_changes, render_survey
from tests.fleet.here import Here

pytest.importorskip("duckdb")

LINE = SurveyLine(what="wait", file="a.py", line=10, code="if t.item():", kind="read item", count=1.0)


def row(target: str, *lines: SurveyLine, **more: object) -> SurveyRow:
    figures = {"waits": 7, "in_loop": float(len(lines)), "breaks": 0, "recompiles": None, **more}
    return SurveyRow(key=target, target=target, lines=lines, **figures)  # type: ignore[arg-type]


@pytest.mark.slow
def test_rows_are_those_of_single_scans(tmp_path: Path) -> None:
    store = Store(tmp_path / "diffprof.duckdb")
    targets = ("corpus:sdxl", "corpus:no-such")
    rows = survey(targets, store, Here(), breaks=False)
    assert [each.status for each in rows] == ["ok", "failed"]
    assert rows[1].reason.startswith("The corpus has no pipeline 'no-such'.")
    scan = scan_target("corpus:sdxl", device=DEVICE).recording
    assert scan.syncs is not None
    assert rows[0].pipeline == "StableDiffusionXLPipeline"
    assert rows[0].waits == sum(each.count for each in scan.syncs)
    assert rows[0].breaks is None
    waits = [(line.file, line.line) for line in rows[0].lines if line.what == "wait"]
    assert waits == [(each.site.file, each.site.line) for each in scan.syncs if each.in_loop]
    again = Here()
    assert survey(targets, store, again, breaks=False) == rows
    assert again.begun == []


def test_what_moved_is_no_change_and_what_came_or_went_is() -> None:
    moved = msgspec.structs.replace(LINE, line=99)
    gone = msgspec.structs.replace(LINE, code="x = t.cpu()", line=12)
    twice = msgspec.structs.replace(LINE, file="b.py", count=2.0)
    before = [row("same", LINE), row("fixed", LINE, gone), row("breaks"), row("old", twice)]
    failed = row("breaks", status="failed", reason="TypeError: no")
    after = [row("same", moved), row("fixed", moved), failed, row("old", twice, twice)]
    found = changes(before, after)
    assert [(c.target, c.what, c.where, c.before, c.after) for c in found] == [
        ("fixed", "wait", "a.py:12", 1.0, None),
        ("breaks", "runs", "TypeError: no", 1.0, 0.0),
        ("old", "wait", "b.py:10", 2.0, 4.0),
    ]
    text = render_changes(found, "text")
    assert "x = t.cpu()" in text
    assert render_changes((), "text") == "Nothing differs.\n"
    assert json.loads(render_changes(found, "json"))["changes"][0]["after"] is None


def test_text_says_not_measured_and_zero_apart() -> None:
    rows = [
        row("a", LINE, grows_bytes=2048),
        row("b", status="failed", reason="no"),
        row("c", host_us=1500.0),
    ]
    told = render_survey(rows, "text").splitlines()
    assert [line.split() for line in told[1:4]] == [
        ["a", "7", "1", "0", "-", "2", "KiB", "-"],
        ["b", "7", "0", "0", "-", "-", "-", "no"],
        ["c", "7", "0", "0", "-", "-", "1.5", "ms"],
    ]
    assert told[-1] == (
        "3 pipelines, 1 do not run: 1 wait in every step, 0 of 2 break graphs, 0 are compiled again, "
        "1 grow in the loop (simulated)."
    )


def test_a_name_that_is_none_is_a_usage_error(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["survey", "corpus:sdxxl", "--traces", str(tmp_path)])
    assert done.exit_code == 2
    assert "Did you mean corpus:sdxl" in done.stderr


def test_a_version_that_cannot_be_installed_is_said_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(spec: str) -> None:
        raise DiffprofError(f"{spec} could not be installed.", "")

    monkeypatch.setattr("diffprof.guard.elsewhere.with_packages", refuses)
    command = ["survey", "corpus:sdxl", "--with", "diffusers@main", "--traces", str(tmp_path / "t")]
    done = CliRunner().invoke(app, command)
    assert "diffusers@main could not be installed" in done.output + str(done.exception)
    assert not (tmp_path / "t").exists()


@pytest.mark.nightly
def test_graph_breaks_are_those_of_a_scan(tmp_path: Path) -> None:
    (row_,) = survey(("corpus:sdxl-inpaint",), Store(tmp_path / "diffprof.duckdb"), Here())
    scan = scan_target("corpus:sdxl-inpaint", device=DEVICE, analyzers=("graph-breaks",)).recording
    assert scan.captures is not None
    assert scan.graph_breaks
    assert scan.recompiles is not None
    early = {row.component for row in scan.captures if not row.per_step} - {"vae.decode"}
    assert early == {"text_encoder", "text_encoder_2", "vae.encode"}
    found = [
        [row for row in rows if row.component not in early] for rows in (scan.graph_breaks, scan.recompiles)
    ]
    assert (row_.breaks, row_.recompiles) == tuple(map(len, found))


@pytest.mark.nightly
def test_every_pipeline_of_the_corpus_has_the_lines_of_its_scan(tmp_path: Path) -> None:
    from diffprof.corpus import CASES

    targets = tuple(f"corpus:{name}" for name in CASES)
    rows = survey(targets, Store(tmp_path / "diffprof.duckdb"), Here(), breaks=False)
    assert [each.target for each in rows if each.status != "ok"] == []
    for target, each in zip(targets, rows, strict=True):
        syncs = scan_target(target, device=DEVICE).recording.syncs or ()
        found = [(line.file, line.line, line.count) for line in each.lines if line.what == "wait"]
        assert found == [(w.site.file, w.site.line, w.per_step) for w in syncs if w.in_loop]


def test_what_another_version_needs_beside_this_environment_is_told(tmp_path: Path) -> None:
    from diffprof.guard.elsewhere import missing

    told = tmp_path / "older-1.0.dist-info"
    told.mkdir()
    requires = (
        "no-such-package-here<2",
        "msgspec<0.1",
        'extra-one; extra == "more"',
        'not; python_version < "3"',
    )
    lines = [
        "Metadata-Version: 2.1",
        "Name: older",
        "Version: 1.0",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (told / "METADATA").write_text("\n".join(lines) + "\n")
    assert missing(tmp_path) == ["no-such-package-here<2"]
