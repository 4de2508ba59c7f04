"""Reports on disk: stored whole or not at all, read back or refused with the next step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from diffprof.judge.judging import judge_again, load_judged, make_report
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.model.fix import Plan
from diffprof.model.recording import SCHEMA
from diffprof.model.report import Report, Unjudged, from_json, load_report, save_report, slug, to_json
from diffprof.model.summary import Action
from tests import builders


@pytest.mark.parametrize("name", builders.HARD)
def test_stored_and_read_back(name: str, tmp_path: Path) -> None:
    report = builders.HARD[name]()
    stored = save_report(report, tmp_path / "run")
    assert stored.path == str(tmp_path / "run")
    assert to_json(load_report(tmp_path / "run")) == to_json(stored)
    assert to_json(load_report(tmp_path / "run" / "report.json")) == to_json(stored)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["report.json"]


def test_characters_that_act_on_a_terminal_are_escaped_in_json_and_come_back() -> None:
    text = "\x7f\x9b\u202e\ufeff\u2028 é 词"
    report = builders.make_report(builders.make_finding(message=text))
    data = to_json(report)
    assert rb"\u009b\u202e\ufeff\u2028" in data
    assert "é 词".encode() in data
    assert from_json(data).findings[0].message == text


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffprofError, match=r"could not be stored.*No space left on device") as caught:
        save_report(builders.empty(), tmp_path)
    assert "--traces" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is not a diffprof report"),
        (b"{}", "is not a diffprof report"),
        (b"\xff\xfe", "is not a diffprof report"),
        (b"[1, 2]", "is not a diffprof report"),
        (b'{"schema": 1}', "is damaged"),
        (to_json(builders.one_of_everything())[:-200], "is not a diffprof report"),
        (b'{"schema": %d}' % (SCHEMA + 1), f"has schema {SCHEMA + 1}"),
    ],
)
def test_what_is_no_report_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(UsageError, match=what) as caught:
        from_json(data, origin="x/report.json")
    assert caught.value.what.startswith("x/report.json")
    assert caught.value.hint


def test_read_to_be_judged_again_without_the_stored_judgement(tmp_path: Path) -> None:
    stored = save_report(builders.one_of_everything(), tmp_path)
    assert to_json(load_judged(tmp_path)) == to_json(judge_again(load_report(tmp_path)))
    file = tmp_path / "report.json"
    whole = msgspec.to_builtins(stored)
    file.write_bytes(msgspec.json.encode({**whole, "findings": "of another form"}))
    assert load_judged(tmp_path).findings == judge_again(stored).findings
    with pytest.raises(UsageError, match="is damaged"):
        load_report(tmp_path)
    for data, said in ((b"{}", "is not a diffprof report"), (b'{"schema": 999}', "has schema 999")):
        file.write_bytes(data)
        with pytest.raises(UsageError, match=said):
            load_judged(tmp_path)


def test_a_missing_report_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No report at .*nowhere: No such file"):
        load_report(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"No report at .*null byte"):
        load_report("a\0b")


def test_judging_again_replaces_the_judgement_only() -> None:
    fresh = make_report(builders.make_recording(builders.make_sync()))
    stale = msgspec.structs.replace(fresh, findings=(builders.make_finding("OLD001"),), path="traces/x")
    again = judge_again(stale)
    assert again.findings == fresh.findings
    assert again.path == "traces/x"
    assert again.recording is stale.recording


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sdxl", "sdxl"),
        ("stabilityai/sdxl-base", "stabilityai-sdxl-base"),
        ("my dir/x.py:make", "my-dir-x.py-make"),
        ("/home/zoe/work/x.py:make", "x.py-make"),
        (r"C:\Users\zoe\models\sdxl", "sdxl"),
        ("/models/sdxl/", "sdxl"),
        ("../..", "run"),
        ("词", "run"),
        ("a100/sdxl.1795626097348336896.pt.trace.json.gz", "a100-sdxl"),
        ("trace.json", "trace"),
        ("a" * 100, "a" * 60),
    ],
)
def test_slug(text: str, name: str) -> None:
    assert slug(text) == name


def test_what_is_no_judgement_is_kept_when_judged_again(tmp_path: Path) -> None:
    """A field of a report is either read by `load_judged` or derived."""
    derived = {"findings", "facts", "allowed", "unchecked", "verdict", "actions", "rest", "path"}
    assert set(Report.__struct_fields__) == {*Unjudged.__struct_fields__, *derived}
    report = msgspec.structs.replace(builders.one_of_everything(), after="after", outcomes=(), plan=Plan())
    save_report(report, tmp_path)
    again = load_judged(tmp_path)
    assert (again.after, again.outcomes, again.plan) == ("after", (), Plan())
    assert again.path == str(tmp_path)


def test_repr_is_one_line() -> None:
    assert len(repr(builders.ugly()).splitlines()) == 1
    assert "\x1b" not in repr(builders.ugly())
    shown = repr(builders.one_of_everything())
    assert shown.startswith("<Report sdxl: The CPU waits for the GPU once per denoising step")
    assert "\n" not in shown


def test_the_repr_of_what_was_tried_says_what_was_kept_and_what_that_bought() -> None:
    report = load_judged(Path(__file__).parents[2] / "traces" / "samples" / "sdxl-ddim-a100")
    assert repr(report).startswith(
        "<Report sdxl: 3 of 6 fixes kept: 539 ms -> 371 ms per call, 1.45x (simulated)."
    )
    kept = [outcome.fix for outcome in report.outcomes or () if outcome.stays]
    assert f" Kept: {', '.join(kept)}." in repr(report)


def test_a_notebook_shows_the_answer_as_plain_html() -> None:
    report = load_judged(Path(__file__).parents[2] / "traces" / "samples" / "sdxl-ddim-h100")
    shown = report._repr_html_()
    assert "<b>440 ms an image of 3 steps" in shown
    assert shown.count("<tr>") == 1 + len(report.actions)
    tuned = load_judged(Path(__file__).parents[2] / "traces" / "samples" / "sdxl-ddim-a100")
    assert "3 of 6 fixes kept" in tuned._repr_html_()
    hostile = builders.ugly()._repr_html_()
    assert "<script" not in hostile
    assert "<img" not in hostile
    assert "style" not in hostile.partition("<small>")[0]


def test_a_report_renders_itself_and_its_findings_say_where() -> None:
    report = builders.one_of_everything()
    assert report.render("markdown").startswith("#")
    assert max(map(len, report.render(columns=60).splitlines())) <= 60
    with pytest.raises(UsageError, match="There is no format 'pdf'"):
        report.render("pdf")
    found = builders.make_finding("SYN001")
    assert repr(found) == f"<SYN001 {found.name} at {found.site.file}:{found.site.line}, 1 per step>"
    assert msgspec.structs.replace(found, site=None, phase="denoise").where == "denoise"


@pytest.mark.parametrize("of", [b'{"\xc5": 1}', b'{"schema": 1, "recording": {"\xc5\x20": 1}}'])
def test_what_is_no_text_is_damage(of: bytes) -> None:
    with pytest.raises(UsageError):
        from_json(of)


@pytest.mark.parametrize("findings", [(), (7,), (-1,)])
def test_a_summary_that_names_no_finding_is_damage(findings: tuple[int, ...]) -> None:
    action = Action(findings=findings, rule="SYN001", title="x")
    report = builders.make_report(builders.make_finding(), actions=(action,))
    stored = to_json(report)
    with pytest.raises(UsageError, match="summary"):
        from_json(stored)
