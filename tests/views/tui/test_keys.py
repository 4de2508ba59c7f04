"""Each key and the mouse, in every tab."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot
from textual.widgets import Input

from diffprof.finding import Evidence
from diffprof.fix import Difference, Outcome, Safety, Status
from diffprof.recording import Grade
from diffprof.report import save_report
from diffprof.views import tui
from diffprof.views.tui.app import Viewer
from diffprof.views.tui.article import Article
from diffprof.views.tui.editor import editor_command, source_file
from diffprof.views.tui.finding_list import FindingList
from diffprof.views.tui.findings_pane import FindingsPane
from diffprof.views.tui.graphs_pane import GraphTree
from diffprof.views.tui.help_screen import HelpScreen
from diffprof.views.tui.job import Job
from diffprof.views.tui.job_panel import JobPanel
from diffprof.views.tui.kernels_pane import KernelsPane
from diffprof.views.tui.plan_pane import PlanPane
from diffprof.views.tui.sheet import Sheet
from diffprof.views.tui.tab_strip import TabStrip
from diffprof.views.tui.themes import DARK, LIGHT
from diffprof.views.tui.timeline_pane import TimelinePane
from diffprof.views.tui.timeline_view import LABEL, TimelineView
from diffprof.views.tui.verdict_bar import VerdictBar
from tests import builders
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled, shows


def shown_rules(pilot: Pilot) -> list[str]:
    return [finding.rule for finding in pilot.app.screen.query_one(FindingList).rows]


def sheet(pilot: Pilot, pane: str) -> Sheet[Any]:
    return pilot.app.screen.query_one(f"{pane} Sheet", Sheet)


# --- everywhere -----------------------------------------------------------------------------------------


def test_numbers_and_clicks_open_tabs(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        screen = pilot.app.screen
        for number in range(1, 9):
            await pilot.press(str(number))
            assert screen.query_one("ContentSwitcher").current == f"pane-{number}"  # type: ignore[attr-defined]
        strip = screen.query_one(TabStrip)
        await pilot.click(TabStrip, offset=(strip.edges[1] + 1, 0))
        assert screen.query_one("ContentSwitcher").current == "pane-3"  # type: ignore[attr-defined]
        assert isinstance(pilot.app.focused, Sheet)

    drive(reports.full(), body)


def test_help_verdict_theme_and_quit(drive: Drive, tmp_path: Path) -> None:
    settings = tmp_path / "config" / "viewer.json"

    async def body(pilot: Pilot) -> None:
        app = pilot.app
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        assert "command palette: tabs, findings" in await settled(pilot)
        await pilot.press("escape")
        bar = app.screen.query_one(VerdictBar)
        await pilot.press("v")
        assert bar.size.height > 3
        assert "has the whole story." in " ".join((await settled(pilot)).split())
        await pilot.click(VerdictBar)
        assert bar.size.height == 3
        assert app.theme == DARK
        await pilot.press("t")
        assert app.theme == LIGHT
        await pilot.press("q")
        assert not app.is_running or app._exit

    drive(reports.full(), body, settings=settings)
    assert LIGHT in settings.read_text()
    drive(reports.full(), _theme_is(LIGHT), settings=settings)


def _theme_is(name: str) -> Any:
    async def body(pilot: Pilot) -> None:
        assert pilot.app.theme == name

    return body


def test_palette_goes_to_tabs_and_findings(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"kernels")
        await shows(pilot, "Open the tab (3)")
        await pilot.press("enter")
        await shows(pilot, "by kernel")
        assert pilot.app.screen.query(KernelsPane)
        await pilot.press("ctrl+p")
        await shows(pilot, "Search for commands")
        await pilot.press(*"grb001")
        await shows(pilot, "GRB001 data-dependent-branch")
        await pilot.press("enter")
        await shows(pilot, "A graph ends here.")
        row = pilot.app.screen.query_one(FindingList).row
        assert row is not None
        assert row.rule == "GRB001"

    drive(reports.full(), body)


# --- findings -------------------------------------------------------------------------------------------


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
        await pilot.click("#chip-loop")
        await pilot.click("#chip-loop")
        assert shown_rules(pilot) == ["QNT001"]

    drive(reports.full(), body)


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


def test_reading_a_finding_and_going_on(drive: Drive, fixed: None) -> None:
    async def body(pilot: Pilot) -> None:
        pane = pilot.app.screen.query_one(FindingsPane)
        await shows(pilot, "apgl Filter", "x Clear")
        await pilot.press("enter")
        assert pane.has_class("-full")
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
        assert not pane.has_class("-full")
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
        assert pilot.app.screen.query_one(FindingsPane).has_class("-full")

    drive(reports.full(), body)


def test_what_if_shows_the_timeline_without_the_finding(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("w")
        pane = pilot.app.screen.query_one(TimelinePane)
        view = pane.query_one(TimelineView)
        assert view.lanes.marks == ()
        assert "without SYN001" in await settled(pilot)
        assert view.lanes.total_us == pytest.approx(pane.recorded.total_us - 60.0)
        await pilot.press("w")
        assert len(view.lanes.marks) == reports.STEPS

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
        await shows(pilot, "mine_no_more.py is not on this machine.", "This finding has no single place.")

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


# --- timeline -------------------------------------------------------------------------------------------


def test_timeline_keys(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("2")
        view = pilot.app.screen.query_one(TimelineView)
        total = view.lanes.total_us
        assert (view.window.start_us, view.window.end_us) == (0.0, total)
        await pilot.press("right", "right", "left")
        assert view.cursor == 1
        await pilot.press("n")
        assert len(view.lanes.marks_in(view.cursor_us - view.column_us, view.cursor_us + view.column_us)) == 1
        first = view.cursor
        await pilot.press("n")
        assert view.cursor > first
        await pilot.press("N")
        assert view.cursor == first
        await pilot.press("plus")
        assert view.window.length_us == pytest.approx(total / 2)
        await pilot.press("minus")
        assert view.window.length_us == pytest.approx(total)
        await pilot.press("plus", "plus", "l")
        moved = view.window.start_us
        await pilot.press("l")
        assert view.window.start_us == pytest.approx(moved + total / 16)
        await pilot.press("h", "h")
        assert view.window.start_us == pytest.approx(moved - total / 16)
        await pilot.press("end")
        assert view.window.end_us == pytest.approx(total)
        await pilot.press("home")
        assert view.window.start_us == 0.0
        await pilot.press("0")
        assert view.window.length_us == pytest.approx(total)
        await pilot.press("n", "z")
        step = view.lanes.host_parts[1]
        assert view.window.start_us < step.start_us
        assert view.window.end_us > step.end_us
        assert view.window.length_us == pytest.approx(1.1 * (step.end_us - step.start_us))
        await pilot.press("z")
        assert view.window.length_us == pytest.approx(total)
        await pilot.press("n", "enter")
        await settled(pilot)
        row = pilot.app.screen.query_one(FindingList).row
        assert row is not None
        assert row.rule == "SYN001"

    drive(reports.full(), body)


def test_enter_opens_the_finding_of_the_wait_itself_before_one_of_all_waits(drive: Drive) -> None:
    full = reports.full()
    all_waits = builders.make_finding(
        "KRN002", "sync-bubble", site=None, evidence=Evidence(syncs=(0,), events=(1, 5))
    )
    report = replace(full, findings=(all_waits, *full.findings))

    async def body(pilot: Pilot) -> None:
        await pilot.press("2", "n", "enter")
        await shows(pilot, "A device value is read by Python.")
        row = pilot.app.screen.query_one(FindingList).row
        assert row is not None
        assert row.rule == "SYN001"

    drive(report, body)


def test_timeline_mouse(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("2")
        view = pilot.app.screen.query_one(TimelineView)
        await pilot.click(TimelineView, offset=(LABEL + 20, 4))
        assert view.cursor == 20
        total = view.lanes.total_us
        await pilot._post_mouse_events([_scroll("MouseScrollUp")], TimelineView, offset=(LABEL + 10, 4))
        assert view.window.length_us == pytest.approx(total / 2)
        before = view.window.start_us
        await pilot.mouse_down(TimelineView, offset=(LABEL + 30, 4))
        await pilot.hover(TimelineView, offset=(LABEL + 20, 4))
        await pilot.mouse_up(TimelineView, offset=(LABEL + 20, 4))
        assert view.window.start_us == pytest.approx(before + 10 * view.column_us)
        await pilot.click(TimelineView, offset=(LABEL + 2, 0))
        assert view.window.start_us == 0.0

    drive(reports.full(), body)


def _scroll(name: str) -> Any:
    from textual import events

    return getattr(events, name)


# --- kernels --------------------------------------------------------------------------------------------


def test_kernels_group_open_and_search(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("3")
        pane = pilot.app.screen.query_one(KernelsPane)
        rows = sheet(pilot, "KernelsPane")
        assert [(g.name, g.count) for g in rows.rows] == [("linear", 10), ("conv2d", 2), ("flash_fwd", 3)]
        ways = []
        for _ in range(6):
            await pilot.press("g")
            ways.append(pane.by)
        assert ways == ["op", "shape", "family", "module", "phase", "kernel"]
        await pilot.press("enter")
        assert pane.by == "module"
        assert {g.name for g in rows.rows} == {"unet.down_blocks.0", "text_encoder.layers.0"}
        assert sum(g.share for g in rows.rows) == pytest.approx(400 / 650)
        await pilot.press("minus", "minus")
        assert {g.name for g in rows.rows} == {"unet", "text_encoder"}
        await pilot.press("plus")
        assert {g.name for g in rows.rows} == {"unet.down_blocks", "text_encoder.layers"}
        await pilot.press("backspace")
        assert pane.by == "kernel"
        await pilot.press("slash", *"flash", "enter")
        assert [g.name for g in rows.rows] == ["flash_fwd"]
        await pilot.press("x")
        assert len(rows.rows) == 3

    drive(reports.full(), body)


# --- graphs, quantization -------------------------------------------------------------------------------


def test_graph_tree(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("4")
        tree = pilot.app.screen.query_one(GraphTree)
        assert "unet" in str(tree.cursor_node.label)  # type: ignore[union-attr]
        await pilot.press("down", "right")
        assert "Use torch.cond." in await settled(pilot)
        await pilot.press("left")
        assert "hint: Use torch.cond." not in await settled(pilot)
        await pilot.press("f")
        assert "hint: Use torch.cond." in await settled(pilot)
        await pilot.press("d")
        assert isinstance(pilot.app.focused, Article)
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, GraphTree)

    drive(reports.full(), body, size=(120, 40))


def test_quantization_bars_and_code(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("5")
        text = await settled(pilot)
        assert "2.00x, measured" in text
        assert "0.80x, simulated" in text
        assert "no such cores" in text
        await pilot.press("down")
        assert "not measured" in await settled(pilot)
        await pilot.press("c")
        assert "No linear is worth quantizing here." in await settled(pilot)
        await pilot.press("escape")
        assert isinstance(pilot.app.focused, Sheet)

    drive(reports.full(), body, size=(120, 40))


# --- plan -----------------------------------------------------------------------------------------------


def test_boxes_change_the_predicted_total(drive: Drive, fixed: None) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("6")
        pane = pilot.app.screen.query_one(PlanPane)
        assert pane.chosen == {"host-timesteps", "fused-attention"}
        assert "2 fixes checked: 0.725 ms → 0.605 ms, 1.20x" in await settled(pilot)
        await pilot.press("space")
        assert "1 fix checked: 0.725 ms → 0.665 ms, 1.09x" in await settled(pilot)
        await pilot.press("down", "down", "enter")
        assert pane.chosen == {"other-model"}, "it can't stand beside fused-attention"
        await pilot.press("r")
        assert pane.chosen == {"host-timesteps", "fused-attention"}
        await pilot.press("a")
        assert pane.chosen == set()
        assert "0 fixes checked: 0.725 ms → 0.725 ms" in await settled(pilot)
        await pilot.press("a")
        assert pane.chosen == {"host-timesteps", "fused-attention"}, "lossy ones are asked for one by one"

    drive(reports.full(), body)


def test_apply_says_what_it_lacks_and_asks_the_command_for_the_checked(drive: Drive, fixed: None) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("6", "A")
        assert "Only a stored run can be fixed." in await settled(pilot)
        assert not pilot.app.screen.query(JobPanel)

    drive(reports.full(), body)
    pane = PlanPane(builders.one_of_everything(), reports_plan(), Path("t"))
    pane.chosen = {"host-timesteps", "other-model"}
    folder = "traces/20260102-030405-sdxl"
    assert pane.command()[:5] == ["fix", folder, "--apply", "--traces", "t"]
    assert pane.command()[5:] == ["--select", "other-model", "--select", "host-timesteps", "--lossy"]


@pytest.mark.parametrize("keys", [[], ["escape"]], ids=["to the end", "stopped"])
def test_applying_shows_progress_and_then_what_became_of_it(
    keys: list[str], drive: Drive, fixed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = save_report(reports.full(), tmp_path / "20260101-000000-a")
    wait = "time.sleep(60)" if keys else "pass"
    work = (
        "import sys, time\nfrom diffprof.progress import progress_on\n"
        "progress = progress_on(sys.stderr)\n"
        f"try:\n    progress.stage('trying [b]x[/b]')\n    {wait}\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
        "print('kept', sys.argv[sys.argv.index('--select') + 1])"
    )
    job = partial(Job, program=(sys.executable, "-c", work))
    monkeypatch.setattr("diffprof.views.tui.plan_pane.Job", job)

    async def body(pilot: Pilot) -> None:
        await pilot.press("6", "A")
        if keys:
            panel = pilot.app.screen.query_one(JobPanel)
            for _ in range(500):
                await pilot.pause(0.02)
                if panel.stages:
                    break
            text = await settled(pilot)
            assert "Applying 2 fixes" in text
            assert "trying [b]x[/b]" in text
            await pilot.press("q")
            assert "q again leaves" in await settled(pilot)
        await pilot.press(*keys)
        for _ in range(500):
            await pilot.pause(0.02)
            if not pilot.app.screen.query(JobPanel):
                break
        await shows(pilot, "Stopped. What was tried until then" if keys else "kept host-timesteps")

    drive(stored, body)


def test_what_became_of_the_fixes_is_shown_and_compared(drive: Drive, fixed: None, tmp_path: Path) -> None:
    save_report(builders.empty(), tmp_path / "20260102-000000-after")
    outcomes = (
        Outcome(
            fix="host-timesteps",
            title="",
            safety=Safety.EXACT,
            status=Status.KEPT,
            before_ms=0.725,
            after_ms=0.665,
            grade=Grade.SIMULATED,
            difference=Difference(compared_on="a twin", bit_equal=True),
            in_loop_before=3,
            in_loop_after=0,
            resolved=("SYN001",),
        ),
        Outcome(
            fix="fused-attention",
            title="",
            safety=Safety.NUMERIC,
            status=Status.UNDONE,
            why="It did not help.",
        ),
    )
    report = replace(reports.full(), outcomes=outcomes, after="20260102-000000-after")
    stored = save_report(report, tmp_path / "20260101-000000-a")

    async def body(pilot: Pilot) -> None:
        await pilot.press("6")
        text = " ".join((await settled(pilot)).split())
        for part in (
            "kept",
            "undone",
            "0.725 -> 0.665 ms (simulated)",
            "bit-identical, on a twin",
            "3 → 0 in",
        ):
            assert part in text
        await pilot.press("down")
        assert "It did not help." in await settled(pilot)
        await pilot.press("c")
        await shows(pilot, "Better:")

    drive(stored, body, size=(120, 40))


def reports_plan() -> Any:
    from diffprof.fix import Plan, PlanStep

    steps = [
        PlanStep(fix=r.fix.key, title=r.fix.title, safety=r.fix.safety, stage=int(r.fix.stage), code="x")
        for r in sorted(reports.RECIPES.values(), key=lambda r: r.fix.stage)
    ]
    return Plan(steps=tuple(steps))


# --- runs -----------------------------------------------------------------------------------------------


def test_runs_open_mark_and_compare(drive: Drive, tmp_path: Path) -> None:
    one = save_report(reports.full(), tmp_path / "20260101-000000-a")
    save_report(builders.empty(), tmp_path / "20260102-000000-b")
    damaged = tmp_path / "20260103-000000-c"
    damaged.mkdir()
    (damaged / "report.json").write_text("{")

    async def body(pilot: Pilot) -> None:
        await pilot.press("8")
        await shows(pilot, "3 runs in", "damaged")
        rows = sheet(pilot, "RunsPane")
        assert rows.row
        assert rows.row.name == "20260101-000000-a"
        await pilot.press("up", "c")
        await shows(pilot, "Better:", "blocking operations in the loop")
        await pilot.press("escape", "space", "down", "space")
        text = await shows(pilot, "c compares A with B")
        assert re.search(r"A +20260102-000000-b", text)
        assert re.search(r"B +20260101-000000-a", text)
        await pilot.press("c")
        await shows(pilot, "Worse:")
        await pilot.press("escape", "home", "enter")
        await shows(pilot, "is not a diffprof report")
        await pilot.press("down", "enter")
        await shows(pilot, "No operation makes the CPU wait", "No finding;")

    drive(one, body, traces=tmp_path, size=(120, 40))


@pytest.mark.parametrize("size", [(20, 6), (40, 12), (200, 60)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_any_size_of_screen(size: tuple[int, int], drive: Drive, fixed: None) -> None:
    async def body(pilot: Pilot) -> None:
        for key in ("2", "3", "4", "5", "6", "7", "8", "1", "down", "enter", "v", "question_mark"):
            await pilot.press(key)
            await settled(pilot)
        await pilot.press("escape")
        await pilot.resize_terminal(90, 30)
        assert "SYN001" in await settled(pilot)

    drive(reports.full(), body, size=size)


def test_a_viewer_that_broke_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(viewer: Viewer) -> None:
        viewer._return_code = 1

    monkeypatch.setattr(Viewer, "run", broken)
    with pytest.raises(RuntimeError, match="the viewer broke"):
        tui.view(reports.full(), tmp_path)


def test_what_is_to_be_done_once_the_report_stands_is_done_once(drive: Drive, tmp_path: Path) -> None:
    calls: list[str] = []
    stored = save_report(reports.full(), tmp_path / "20260101-000000-a")

    async def body(pilot: Pilot) -> None:
        for _ in range(2):
            await pilot.press("8")
            await shows(pilot, "1 run in")
            await pilot.press("enter")
            await shows(pilot, "SYN001 value-read")
        for _ in range(100):
            await pilot.pause(0.02)
        assert calls == ["settled"]

    drive(stored, body, traces=tmp_path, settled=lambda: calls.append("settled"))
