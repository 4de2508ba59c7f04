"""Edits stored in a report, and in the plans that are made of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.judge.plan import make_plan
from diffprof.judge.source_edit.stored import with_source_edits
from diffprof.judge.summary import summarized
from diffprof.model.errors import DiffprofError
from diffprof.model.report import Report, load_report, save_report
from diffprof.views import FORMATS, render
from diffprof.views.tuning import FORMS, render_plan
from tests.builders import make_report
from tests.tuning.source_edit.reported import reported

SOURCE = """\
x = torch.ones(2).to(device)
y = torch.zeros(2).to(device)
z = torch.randn(2).to(device)
torch.cuda.synchronize()
"""


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    monkeypatch.chdir(tmp_path)
    file = Path("mine.py")
    file.write_text(SOURCE)
    fixed = {"fixes": ("upload-once",)}
    return with_source_edits(
        reported(
            file,
            [
                ("SYN005", "ones", fixed),
                ("SYN005", "zeros", fixed),
                ("SYN005", "randn", {}),
                ("SYN009", "sync", {}),
            ],
        )
    )


def test_each_finding_has_its_own_diff_or_the_reason(report: Report) -> None:
    plan = make_plan(report)
    ones, zeros, randn, wait = plan.edits
    assert "+x = torch.ones(2, device=device)" in ones.diff
    assert "+y" not in ones.diff
    assert "+y = torch.zeros(2, device=device)" in zeros.diff
    assert (randn.diff, randn.what) == ("", ())
    assert "other random numbers" in randn.why_not
    assert (wait.file, wait.line, wait.what) == ("mine.py", 4, ("take the explicit wait out of the loop",))


def test_a_step_has_the_diff_of_all_its_findings(report: Report) -> None:
    (step,) = make_plan(report).steps
    assert step.patch is not None
    assert "+x = torch.ones(2, device=device)\n+y = torch.zeros(2, device=device)" in step.patch
    assert step.no_patch is None


def test_what_no_edit_was_made_for_is_done_by_hand(report: Report) -> None:
    """The table says `fix --patch` only where that edits something."""
    one = summarized(report).actions[0]
    assert one.patch
    each = tuple(replace(one, findings=(n,)) for n in range(4))
    told = with_source_edits(replace(report, actions=each)).actions
    assert [action.patch for action in told] == [True, True, False, True], "random numbers are not moved"


def test_of_a_file_that_changed_the_reason_stands_there(report: Report) -> None:
    Path("mine.py").write_text(SOURCE + "# more\n")
    plan = make_plan(report)
    assert {edit.why_not.partition(",")[0] for edit in plan.edits} == {"mine.py changed since the scan"}
    assert [step.patch for step in plan.steps] == [None]
    assert "changed since the scan" in (plan.steps[0].no_patch or "")
    again = with_source_edits(report)
    assert again.source is not None
    assert all("changed since the scan" in edit.why_not for edit in again.source.findings)


def test_where_the_file_is_not_the_diff_stays(report: Report) -> None:
    Path("mine.py").unlink()
    assert "+x = torch.ones(2, device=device)" in make_plan(report).edits[0].diff


def test_an_edit_that_fails_costs_no_scan(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffprof.judge.source_edit import choosing

    def fails(*_: object) -> None:
        raise ValueError("odd")

    monkeypatch.setattr(choosing, "create_in_place", fails)
    source = with_source_edits(report).source
    assert source is not None
    assert [edit.why_not for edit in source.findings[:2]] == ["making it failed with ValueError: odd"] * 2
    assert "-torch.cuda.synchronize()" in source.findings[3].diff
    assert source.fixes == {}


def test_edits_that_leave_no_python_are_not_made(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffprof.judge.source_edit import patch

    monkeypatch.setattr(patch, "applied_to", lambda *_: b"x = (\n")
    with pytest.raises(DiffprofError, match="leave no valid Python"):
        patch.make_patch(report, make_plan(report), Path("mine.py"))


def test_from_another_folder_the_edits_of_the_scan_stand(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert with_source_edits(report).source == report.source


def test_what_does_not_parse_is_the_reason_of_all_findings(report: Report) -> None:
    Path("mine.py").write_text("sync ones zeros randn = (\n")
    broken = reported(Path("mine.py"), [("SYN005", "ones", {}), ("SYN009", "sync", {})])
    stored = with_source_edits(broken).source
    assert stored is not None
    assert all("does not parse" in edit.why_not for edit in stored.findings)


def test_without_files_of_the_user_nothing_is_stored_and_libcst_is_not_imported() -> None:
    assert with_source_edits(make_report()).source is None
    code = (
        "import sys; from tests.builders import make_report, make_finding\n"
        "from diffprof.judge.source_edit.stored import with_source_edits\n"
        "with_source_edits(make_report(make_finding())); assert 'libcst' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_views_show_stored_edits_without_libcst(report: Report, tmp_path: Path) -> None:
    save_report(report, tmp_path / "run")
    code = (
        "import re, sys; from diffprof.model.report import load_report; from diffprof.views import render\n"
        "from diffprof.judge.plan import make_plan\n"
        "report = load_report('run'); page = re.sub('<[^>]+>', '', render(report, 'html'))\n"
        "assert '+y = torch.zeros(2, device=device)' in page\n"
        "assert make_plan(report).steps[0].patch; assert 'libcst' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    assert load_report(tmp_path / "run").source == report.source


@pytest.mark.parametrize("form", FORMS)
def test_a_plan_shows_what_no_fix_is_for(report: Report, form: str) -> None:
    shown = render_plan(report, make_plan(report), form, columns=200)
    assert "+y = torch.zeros(2, device=device)" in shown
    assert "-torch.cuda.synchronize()" in shown
    assert "other random numbers" in shown


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_takes_a_report_with_edits(report: Report, form: str) -> None:
    assert render(report, form)


def test_the_page_of_a_finding_shows_its_edit(report: Report) -> None:
    from diffprof.views.tui.finding_page import finding_page

    plan = make_plan(report)
    steps = {step.fix: step for step in plan.steps}
    pages = [finding_page(f, report.recording, None, steps, plan.edits) for f in report.findings]
    text = ["\n".join(block.text.plain for block in page.blocks) for page in pages]
    assert "+x = torch.ones(2, device=device)" in text[0]
    assert "other random numbers" in text[2]
    assert "-torch.cuda.synchronize()" in text[3]
