"""What is allowed on purpose: by a comment, a block, the configuration; and what is not any more."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from msgspec import structs

import diffprof
from diffprof.judge.allowed import open_blocks, watching_blocks
from diffprof.judge.comments import comments_in
from diffprof.judge.judging import make_report
from diffprof.model.recording import Allowance
from diffprof.model.redacting import redacted
from diffprof.model.report import to_json
from tests.analyzers.allowances.examples import READ, allowance
from tests.builders import make_recording, make_site, make_sync


def commented(tmp_path: Path, text: str) -> list[Allowance]:
    file = tmp_path / "scheduler.py"
    file.write_text(text)
    return list(comments_in([str(file)]))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("x = t.item()  # diffprof: allow SYN001 why\n", (1, 1)),
        ("# diffprof: allow SYN001 why\nx = t.item()\n", (2, 2)),
        ("if a:\n    # diffprof: allow SYN001 why\n    x = f(\n        t.item(),\n    )\ny = 1\n", (3, 5)),
        ("x = f(\n    t.item(),  # diffprof: allow SYN001 why\n)\n", (1, 3)),
        ("# diffprof: allow SYN001 why\n\n# another remark\nif t > 0:\n    pass\n", (4, 4)),
    ],
)
def test_a_comment_is_for_its_statement_or_the_next(tmp_path: Path, text: str, lines: tuple) -> None:
    (found,) = commented(tmp_path, text)
    assert (found.first, found.last) == lines
    assert (found.rules, found.reason, found.by) == (("SYN001",), "why", "comment")


def test_several_rules_and_a_reason_that_begins_like_one(tmp_path: Path) -> None:
    (found,) = commented(tmp_path, "f()  # diffprof: allow SYN001, SYN004 GRB is off here, too\n")
    assert found.rules == ("SYN001", "SYN004")
    assert found.reason == "GRB is off here, too"


def test_what_is_no_comment_allows_nothing(tmp_path: Path) -> None:
    assert commented(tmp_path, 'x = "# diffprof: allow SYN001 why"\n') == []
    assert commented(tmp_path, "def broken(:  # diffprof: allow SYN001 why\n") == []


def test_what_is_allowed_is_no_finding_and_is_listed() -> None:
    report = make_report(make_recording(READ, allowances=(allowance(12),)))
    assert report.findings == ()
    (kept,) = report.allowed
    assert (kept.rule, kept.allowed) == ("SYN001", "the length is needed (my/scheduler.py:12)")
    assert "the length is needed" in report.render(verbose=True)
    assert "Allowed on purpose: 1 finding" in report.render()


@pytest.mark.parametrize(
    "other",
    [
        {"first": 13, "last": 13},
        {"rules": ("SYN004",)},
        {"file": "scheduler2.py"},
        {"function": "set_timesteps"},
    ],
)
def test_another_line_rule_file_or_function_is_not_allowed(other: dict) -> None:
    beside = structs.replace(allowance(12), **other)
    report = make_report(make_recording(READ, allowances=(beside,)))
    assert {each.rule for each in report.findings} == {"SYN001", "ALW001"}
    assert report.allowed == ()


@pytest.mark.parametrize(
    "other", [{"rules": ("SYN",)}, {"rules": ("value-read",)}, {"file": "scheduler.py"}, {"function": "step"}]
)
def test_beginnings_of_codes_names_and_ends_of_paths_allow(other: dict) -> None:
    allowed = structs.replace(allowance(12), **other)
    assert make_report(make_recording(READ, allowances=(allowed,))).findings == ()


def test_a_comment_is_not_for_what_its_line_calls_and_a_block_is() -> None:
    called = make_sync(site=make_site(chain=make_site("my/scheduler.py", 12).chain))
    frame = called.site.chain[0]
    around = structs.replace(allowance(frame.line), file=frame.file)
    assert make_report(make_recording(called, allowances=(around,))).allowed == ()
    inside = structs.replace(around, by="block")
    assert len(make_report(make_recording(called, allowances=(inside,))).allowed) == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"reason": ""}, "the reason is missing"),
        ({"rules": ("SNY001",)}, "SNY001, is the code or name of no rule"),
    ],
)
def test_an_allowance_that_is_wrong_allows_nothing_and_says_so(change: dict, says: str) -> None:
    report = make_report(make_recording(READ, allowances=(structs.replace(allowance(12), **change),)))
    (wrong,) = (each for each in report.findings if each.rule == "ALW001")
    assert says in wrong.message
    assert report.allowed == ()


def test_an_allowance_of_what_was_not_checked_is_not_called_unused() -> None:
    unchecked = structs.replace(allowance(12), rules=("GRB",))
    report = make_report(make_recording(READ, allowances=(unchecked,)))
    assert {each.rule for each in report.findings} == {"SYN001"}


def test_a_block_is_free_when_nothing_watches() -> None:
    assert isinstance(diffprof.allowed("SYN", reason="why"), nullcontext)
    program = "import diffprof, sys; diffprof.allowed('SYN', reason='why'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_block_that_is_watched_is_noted_with_its_lines() -> None:
    with watching_blocks() as blocks:
        with diffprof.allowed("SYN", reason="why"):
            inside = open_blocks()
        assert open_blocks() == ()
    (found,) = blocks.entered
    assert len(inside) == 1
    assert (found.rules, found.reason, found.by) == (("SYN",), "why", "block")
    assert found.site is not None
    assert (found.first, found.last) == (found.site.line, found.site.line + 1)


def test_what_is_sent_redacted_has_no_reasons_and_is_judged_the_same() -> None:
    report = make_report(make_recording(READ, allowances=(allowance(12), allowance(40))))
    sent = redacted(report)
    assert "the length is needed" not in to_json(sent).decode()
    again = make_report(sent.recording)
    assert [each.rule for each in again.allowed] == [each.rule for each in sent.allowed] == ["SYN001"]
    assert [each.rule for each in again.findings] == ["ALW001"]
