"""The plan of fixes: boxes, applying, what became of it."""

from __future__ import annotations

import hashlib
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from textual.pilot import Pilot

from diffprof.judge.plan import make_plan
from diffprof.model.fix import Difference, Outcome, Plan, PlanStep, Safety, Status
from diffprof.model.recording import Grade
from diffprof.model.report import Report, save_report
from diffprof.views.tui.job import Ended, Job
from diffprof.views.tui.job_panel import JobPanel
from diffprof.views.tui.plan_pane import PlanPane, _saves, beside_tried, total_line
from tests import builders
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled, shows, table, until


@pytest.mark.slow
def test_boxes_change_the_predicted_total(drive: Drive, fixed: None) -> None:
    async def body(pilot: Pilot) -> None:
        await pilot.press("6")
        pane = pilot.app.screen.query_one(PlanPane)
        assert pane.chosen == {"host-timesteps", "fused-attention"}
        assert "2 fixes checked: 1 ms → 0.88 ms, 1.14x" in await settled(pilot)
        await pilot.press("space")
        assert "1 fix checked: 1 ms → 0.94 ms, 1.06x" in await settled(pilot)
        await pilot.press("down", "down", "enter")
        assert pane.chosen == {"other-model"}, "it can't stand beside fused-attention"
        await pilot.press("r")
        assert pane.chosen == {"host-timesteps", "fused-attention"}
        await pilot.press("a")
        assert pane.chosen == set()
        assert "0 fixes checked: 1 ms → 1 ms" in await settled(pilot)
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
    assert pane.command()[5:] == ["--select", "other-model", "--select", "host-timesteps", "--lossy", "--yes"]


@pytest.mark.parametrize("why", ["elsewhere", "changed"])
def test_what_may_be_somebody_else_s_is_doubted_before_it_is_built(
    why: str, drive: Drive, fixed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, own = tmp_path / "make.py", tmp_path / "traces"
    file.write_text("def make(): ...\n")
    evidence = reports.full().recording
    target = replace(evidence.target, spec=f"{file}:make", kind="factory")
    sources = {str(file): hashlib.sha256(file.read_bytes()).hexdigest()}
    report = replace(reports.full(), recording=replace(evidence, target=target, sources=sources))
    folder = (own if why == "changed" else tmp_path / "theirs") / "20260101-000000-a"
    stored = save_report(report, folder)
    doubt = "it may be somebody else's"
    if why == "changed":
        file.write_text("import os\n")
        doubt = "is not the file that was scanned"
    began: list[list[str]] = []
    work = partial(Job, program=(sys.executable, "-c", "pass"))
    monkeypatch.setattr(
        "diffprof.views.tui.plan_pane.Job",
        lambda args, title, **more: began.append(args) or work(args, title),
    )

    async def body(pilot: Pilot) -> None:
        await pilot.press("6", "A")
        asked = " ".join((await settled(pilot)).split())
        assert doubt in asked.replace("│ ", "")
        assert "which runs the code of that file" in asked
        assert not began
        await pilot.press("A")
        await until(pilot, lambda: began, "begun")
        assert began[0][-1] == "--yes"

    drive(stored, body, traces=own, size=(600, 40))


@pytest.mark.slow
@pytest.mark.parametrize("keys", [[], ["escape"]], ids=["to the end", "stopped"])
def test_applying_shows_progress_and_then_what_became_of_it(
    keys: list[str], drive: Drive, fixed: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = save_report(reports.full(), tmp_path / "20260101-000000-a")
    wait = "time.sleep(60)" if keys else "pass"
    work = (
        "import shutil, sys, time\nfrom diffprof.model.progress import progress_on\n"
        "progress = progress_on(sys.stderr)\n"
        f"try:\n    progress.stage('trying [b]x[/b]')\n    {wait}\n"
        "except KeyboardInterrupt:\n    sys.exit(130)\n"
        "print('kept', sys.argv[sys.argv.index('--select') + 1])\n"
        "print('.' * (shutil.get_terminal_size().columns - 1) + '|')"
    )
    job = partial(Job, program=(sys.executable, "-c", work))
    monkeypatch.setattr("diffprof.views.tui.plan_pane.Job", job)

    async def body(pilot: Pilot) -> None:
        await pilot.press("6", "A")
        assert "2 fixes to try" in await settled(pilot)
        assert not pilot.app.screen.query(JobPanel), "it asks first"
        await pilot.press("down", "A")
        assert not pilot.app.screen.query(JobPanel), "the question had gone from the screen"
        await pilot.press("A")
        if keys:
            panel = pilot.app.screen.query_one(JobPanel)
            await until(pilot, lambda: panel.stages, "trying")
            text = await settled(pilot)
            assert "Applying 2 fixes" in text
            assert "trying [b]x[/b]" in text
            await pilot.press("q")
            assert "q again leaves" in await settled(pilot)
        await pilot.press(*keys)
        await until(pilot, lambda: not pilot.app.screen.query(JobPanel), "over")
        await shows(pilot, *(["Stopped. Nothing was tried"] if keys else ["kept host-timesteps", ".|"]))

    drive(stored, body)


@pytest.mark.parametrize(
    ("code", "output", "said"),
    [
        (130, b"1 fix kept", "Stopped. What was tried until then is stored."),
        (-9, b"", "Ended at once. Nothing was tried to its end: the run is as it was."),
    ],
)
def test_what_is_said_of_a_stopped_job_is_what_it_stored(
    code: int, output: bytes, said: str, drive: Drive, fixed: None, tmp_path: Path
) -> None:
    stored = save_report(reports.full(), tmp_path / "20260101-000000-a")

    async def body(pilot: Pilot) -> None:
        await pilot.press("6")
        pane = pilot.app.screen.query_one(PlanPane)
        pane.post_message(JobPanel.Over(Job([], "Applying", stopping=True), Ended(code, output, ())))
        await shows(pilot, said)

    drive(stored, body, size=(80, 30))


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
    steps = [
        PlanStep(fix=r.fix.key, title=r.fix.title, safety=r.fix.safety, stage=int(r.fix.stage), code="x")
        for r in sorted(reports.RECIPES.values(), key=lambda r: r.fix.stage)
    ]
    return Plan(steps=tuple(steps))


def test_a_plan_that_takes_long_is_said_and_keeps_no_tab_waiting(
    drive: Drive, fixed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = threading.Event()

    def slow(report: Report) -> Plan:
        assert made.wait(60)
        return make_plan(report)

    monkeypatch.setattr("diffprof.views.tui.report_screen.make_plan", slow)

    async def body(pilot: Pilot) -> None:
        await pilot.press("6")
        await shows(pilot, "Working out the plan of fixes…")
        await pilot.press("1", "6")
        made.set()
        await shows(pilot, "2 fixes checked")
        assert pilot.app.focused is table(pilot, "PlanPane")

    drive(reports.full(), body, planned=False)


@pytest.mark.parametrize(
    ("saves_ms", "shown"),
    [(None, [("muted", "–")]), (-0.0002, [("muted", "0")]), (0.0, [("muted", "0")]), (1200.5, "1,200.500")],
)
def test_zero_is_no_saving(saves_ms: float | None, shown: object) -> None:
    step = replace(reports_plan().steps[0], saves_ms=saves_ms)
    assert _saves(step) == shown


def test_a_plan_that_fails_is_said(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(report: Report) -> Plan:
        raise ValueError("[b]no[/b]")

    monkeypatch.setattr("diffprof.views.tui.report_screen.make_plan", broken)

    async def body(pilot: Pilot) -> None:
        await pilot.press("6")
        await shows(pilot, "The plan could not be made: ValueError('[b]no[/b]')")

    drive(reports.full(), body, planned=False)


@pytest.mark.parametrize(
    ("gained", "text"),
    [
        (
            "341 ms, 1.36x (simulated)",
            "1 checked: 465 ms → 461 ms, 1.01x, predicted; tried: 341 ms, 1.36x (simulated)",
        ),
        ("341 ms, 1.36x (measured)", "1.01x, predicted (simulated); tried: 341 ms, 1.36x (measured)"),
    ],
)
def test_what_was_gained_stands_beside_what_is_predicted(gained: str, text: str) -> None:
    plan = Plan(before_ms=465.0, grade=Grade.SIMULATED)
    shown = "".join(part for _, part in beside_tried(total_line(plan, {"x"}, 461.0), gained))
    assert shown.endswith(text)
    assert "1 checked: " in shown
