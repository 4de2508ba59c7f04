"""The list of findings and the page of the current one, by key and mouse."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot
from textual.widgets import Input

from diffprof.model.summary import Answer
from diffprof.views.tui.article import Article
from diffprof.views.tui.editor import editor_command, source_file
from diffprof.views.tui.finding_list import FindingList
from diffprof.views.tui.findings_pane import FindingsPane
from diffprof.views.tui.timeline_pane import TimelinePane
from diffprof.views.tui.timeline_view import TimelineView
from tests import builders
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, click_on, settled, shows


def shown_rules(pilot: Pilot) -> list[str]:
    return [finding.rule for finding in pilot.app.screen.query_one(FindingList).rows]


@pytest.mark.slow
def test_moving_in_a_list(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        findings = pilot.app.screen.query_one(FindingList)
        places = []
        for key in ("down", "j", "up", "k", "end", "home", "pagedown", "pageup", "up"):
            await pilot.press(key)
            places.append(findings.cursor)
        room = findings.scrollable_content_region.height - 1
        assert places == [1, 2, 1, 0, 4_999, 0, room - 1, 0, 0]

    drive(builders.many(5_000), body)


def test_it_opens_on_the_finding_that_the_verdict_names(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        findings = pilot.app.screen.query_one(FindingList)
        assert findings.row
        assert findings.row.rule == "GRB001", "the third"
        await shows(pilot, f"GRB001 {findings.row.name}")

    drive(replace(reports.full(), verdict=Answer(finding=2)), body)


@pytest.mark.slow
def test_filters_by_key_and_click(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        assert shown_rules(pilot) == ["SYN001", "KRN004", "GRB001", "QNT001"]
        await pilot.press("a")
        assert shown_rules(pilot) == ["SYN001"]
        await pilot.press("a")
        assert shown_rules(pilot) == ["KRN004"]
        await pilot.press("x", "p")
        assert shown_rules(pilot) == ["SYN001", "KRN004", "GRB001"]
        await pilot.press("p")
        assert shown_rules(pilot) == ["QNT001"]
        await pilot.press("p", "g", "g")
        assert shown_rules(pilot) == ["GRB001", "QNT001"]
        await pilot.press("l")
        assert shown_rules(pilot) == ["GRB001"]
        assert "1 of 4" in await settled(pilot)
        await pilot.press("x")
        await click_on(pilot, " loop")
        await click_on(pilot, " loop")
        assert shown_rules(pilot) == ["QNT001"]

    drive(reports.full(), body)


@pytest.mark.slow
def test_search_narrows_as_it_is_typed(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("slash", *"unet.py grb")
        assert shown_rules(pilot) == ["GRB001"]
        await pilot.press("enter")
        assert isinstance(pilot.app.focused, FindingList)
        await pilot.press("slash", *"zzz")
        assert shown_rules(pilot) == []
        assert "No finding matches" in await settled(pilot)
        await pilot.press("escape")
        assert len(shown_rules(pilot)) == 4
        assert pilot.app.screen.query_one("FindingsPane Input", Input).value == ""

    drive(reports.full(), body)


@pytest.mark.slow
def test_sorting_keeps_the_current_row_and_unknown_last(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        findings = pilot.app.screen.query_one(FindingList)
        await pilot.press("down")
        await pilot.press("s")
        assert findings.sort_column
        assert findings.sort_column.title == "rule"
        assert shown_rules(pilot) == ["GRB001", "KRN004", "QNT001", "SYN001"]
        assert findings.row
        assert findings.row.rule == "KRN004"
        await pilot.press("S")
        assert shown_rules(pilot) == ["SYN001", "QNT001", "KRN004", "GRB001"]
        titles = [findings.sort_column.title]
        while findings.sort_column:
            await pilot.press("s")
            titles.append(findings.sort_column.title if findings.sort_column else "")
            if titles[-1] == "blocked ms":
                assert shown_rules(pilot)[0] == "SYN001"
        assert titles[-1] == ""
        x = sum(cells + 1 for column, cells in findings._layout[:4]) + 1
        await pilot.click(FindingList, offset=(x, 0))
        assert findings.sort_column
        assert findings.sort_column.title == "saves ms"
        assert findings.rows[-1].saves_ms is None
        assert not findings.reversed
        await pilot.click(FindingList, offset=(x, 0))
        assert findings.reversed
        assert findings.rows[-1].saves_ms is None

    drive(reports.full(), body)


@pytest.mark.slow
def test_reading_a_finding_and_going_on(drive: Drive, fixed: None) -> None:
    async def body(pilot: Pilot) -> None:
        pane = pilot.app.screen.query_one(FindingsPane)
        await shows(pilot, "apgl Filter", "x Clear")
        await pilot.press("enter")
        assert pane.alone
        assert "Filter" not in await shows(pilot, "n Next", "N Previous", "o Editor", "esc Back")
        assert isinstance(pilot.app.focused, Article)
        await shows(pilot, "timesteps.cpu()")
        text = "\n".join(line.plain for line in pilot.app.focused.lines)
        for part in (
            "Called from",
            "Evidence",
            "what-if",
            "Rule SYN001",
            "Fix host-timesteps",
            "timesteps.cpu()",
        ):
            assert part in text
        await pilot.press("n")
        assert "KRN004 unfused" in await settled(pilot)
        await pilot.press("N")
        assert "SYN001 value-read" in await settled(pilot)
        top = pilot.app.focused.scroll_offset.y
        await pilot.press("pagedown")
        await settled(pilot)
        assert pilot.app.focused.scroll_offset.y > top
        await pilot.press("escape")
        assert not pane.alone
        assert isinstance(pilot.app.focused, FindingList)

    drive(reports.full(), body)


def test_double_click_opens_and_y_copies(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.click(FindingList, offset=(5, 3))
        findings = pilot.app.screen.query_one(FindingList)
        assert findings.cursor == 2
        await pilot.press("y")
        assert pilot.app.clipboard == "diffusers/models/unet.py:77"
        await pilot.click(FindingList, offset=(5, 3), times=2)
        assert pilot.app.screen.query_one(FindingsPane).alone

    drive(reports.full(), body)


def test_y_copies_what_was_found_where_there_is_no_line(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("y")
        assert pilot.app.clipboard.startswith("SYN001 value-read: ")

    drive(builders.make_report(builders.make_finding(site=None)), body)


def test_e_writes_the_page(drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = replace(reports.full(), path="traces/20260101-000000-a")

    async def body(pilot: Pilot) -> None:
        await pilot.press("e")
        await shows(pilot, "Written: 20260101-000000-a.html")
        (tmp_path / "20260101-000000-a.html").unlink()
        (tmp_path / "20260101-000000-a.html").mkdir()
        await pilot.press("e")
        await shows(pilot, "20260101-000000-a.html can't be written")

    drive(report, body)


def test_what_if_shows_the_timeline_without_the_finding(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("w")
        pane = pilot.app.screen.query_one(TimelinePane)
        view = pane.query_one(TimelineView)
        assert view.tracks.marks == ()
        assert "without SYN001" in await settled(pilot)
        assert view.tracks.total_us == pytest.approx(pane.recorded.total_us - 60.0)
        await pilot.press("w")
        assert len(view.tracks.marks) == reports.STEPS

    drive(reports.full(), body)


def test_o_opens_the_source_in_the_editor(
    drive: Drive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDITOR", "ed")
    monkeypatch.delenv("VISUAL", raising=False)
    ran: list[list[str]] = []
    monkeypatch.setattr("subprocess.run", lambda command, check: ran.append(command))
    monkeypatch.setattr("textual.app.App.suspend", lambda app: nullcontext())
    mine = builders.make_site("mine.py", 1, user_code=True)
    gone = builders.make_site("mine_no_more.py", 1, user_code=True)
    report = builders.make_report(
        builders.make_finding(site=mine), builders.make_finding(site=gone), builders.make_finding(site=None)
    )

    async def body(pilot: Pilot) -> None:
        await pilot.press("o")
        assert ran == [["ed", "+1", "mine.py"]]
        await pilot.press("down", "o", "down", "o")
        await shows(pilot, "mine_no_more.py is not on this machine.", "This finding is of the whole call")

    drive(report, body)


def test_an_editor_is_asked_for_a_line_in_its_own_way(tmp_path: Path) -> None:
    site = builders.make_site("pkg/x.py", 7)
    assert source_file(site, [str(tmp_path)]) is None
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "x.py").touch()
    assert source_file(site, ["", str(tmp_path)]) == tmp_path / "pkg" / "x.py"
    file = Path("a b.py")
    assert editor_command(file, 7, {"EDITOR": "nvim -R"}) == ["nvim", "-R", "+7", "a b.py"]
    assert editor_command(file, 0, {"EDITOR": "vi"}) == ["vi", "+1", "a b.py"]
    assert editor_command(file, 7, {"VISUAL": "/bin/code -w"}) == ["/bin/code", "-w", "--goto", "a b.py:7"]
