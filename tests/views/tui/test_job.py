"""A command in a process of its own: its progress, its end, being stopped; then its report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffprof.model.progress import DESCRIPTOR, Lines, Progress, progress_on
from diffprof.model.report import to_json
from diffprof.views.tui.app import Viewer
from diffprof.views.tui.finding_list import FindingList
from diffprof.views.tui.job import Ended, Job
from diffprof.views.tui.job_panel import JobPanel
from diffprof.views.tui.live_screen import LiveScreen
from tests import builders
from tests.views.tui.conftest import settled, shows, until

WORK = """
import os, sys, time
from diffprof.model.progress import progress_on
progress = progress_on(sys.stderr)
progress.stage("building")
progress.stage("[bold]denoising", total=4)
progress.step("step \\x1b[31m1")
print("said", file=sys.stderr)
code = 0
try:
    progress.step("ready")
    if sys.argv[2] == "wait":
        time.sleep(60)
except KeyboardInterrupt:
    code = 130
sys.stdout.write(open(sys.argv[1]).read())
sys.exit(code)
"""


@pytest.fixture
def report_file(tmp_path: Path) -> Path:
    file = tmp_path / "printed.json"
    file.write_bytes(to_json(builders.one_of_everything()))
    return file


def work(file: Path, how: str = "go") -> Job:
    return Job([str(file), how], "Scanning", program=(sys.executable, "-c", WORK))


def test_progress_output_and_talk_arrive(report_file: Path) -> None:
    told: list[dict[str, Any] | None] = []
    ended = asyncio.run(work(report_file).run(told.append))
    assert ended.code == 0
    assert ended.output == report_file.read_bytes()
    assert ended.talk == ("said",)
    assert [entry for entry in told if entry] == [
        {"stage": "building", "total": None},
        {"stage": "[bold]denoising", "total": 4},
        {"step": "step \x1b[31m1", "amount": 1},
        {"step": "ready", "amount": 1},
    ]


@pytest.fixture(params=[signal.default_int_handler, signal.SIG_IGN])
def ctrl_c_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """As in a shell, and ignored as in what a shell runs in the background, which a child would inherit."""
    before = signal.signal(signal.SIGINT, request.param)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_here")
def test_a_stopped_job_gives_what_it_had(report_file: Path) -> None:
    job = work(report_file, "wait")

    def told(entry: dict[str, Any] | None) -> None:
        if entry and entry.get("step") == "ready":
            job.stop()

    ended = asyncio.run(job.run(told))
    assert ended.code == 130
    assert ended.output == report_file.read_bytes()


@pytest.mark.slow
def test_what_a_job_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    code = "import subprocess; print(subprocess.Popen(['sleep', '300'], close_fds=False).pid)"
    job = Job([], "Scanning", program=(sys.executable, "-c", code))
    ended = asyncio.run(job.run(lambda entry: None))
    os.kill(int(ended.output), signal.SIGKILL)  # raises if it had ended


def test_the_second_stop_ends_it(report_file: Path) -> None:
    job = work(report_file, "wait")
    job.stopping = True

    def told(entry: dict[str, Any] | None) -> None:
        if entry and entry.get("step") == "ready":
            job.stop()

    ended = asyncio.run(job.run(told))
    assert ended == Ended(-9, b"", ("said",))


def test_stages_are_timed_by_the_clock_given() -> None:
    now = [0.0]
    panel = JobPanel(Job([], "Scanning"), clock=lambda: now[0])
    panel.tell({"stage": "building", "total": None})
    now[0] = 2.0
    panel.tell({"stage": "[bold]denoising", "total": 4})
    panel.tell({"step": "a", "amount": 3})
    now[0] = 3.5
    lines = [block.text.plain for block in panel.page().blocks]
    assert lines[0] == "Scanning  3.5 s"
    assert lines[2] == "✓     2.0 s  building"
    assert lines[3].startswith("▶     1.5 s  [bold]denoising ██████████████████")
    assert lines[3].endswith(" 3/4 a")


def test_stages_stand_below_the_part_that_they_belong_to() -> None:
    now = [0.0]
    parts = {"one: ": "one", "two: ": "two", "kept: ": "a scan of what is kept"}
    panel = JobPanel(Job([], "Applying"), parts=parts, clock=lambda: now[0])
    for name in ("importing", "one: a", "scan", "compare", "two: b", *"123456"):
        panel.tell({"stage": name})
        now[0] += 1.0
    lines = [block.indent * " " + block.text.plain for block in panel.page().blocks]
    assert lines == [
        "Applying  11.0 s  Esc stops it",
        "",
        "✓     3.0 s  one: a",
        "▶     7.0 s  two: b",
        *(f"  ✓     1.0 s  {name}" for name in "345"),
        "  ▶     1.0 s  6",
        "  left: a scan of what is kept",
    ]


def test_stages_before_the_first_part_leave_room_for_what_is_left() -> None:
    panel = JobPanel(Job([], "Applying"), parts={"one: ": "one"}, clock=lambda: 0.0)
    for number in range(6):
        panel.tell({"stage": f"stage {number}"})
    lines = [block.text.plain for block in panel.page().blocks]
    assert lines[2] == "  2 stages before"
    assert lines[3].endswith("stage 2")
    assert lines[-1] == "left: one"


def test_a_low_panel_shows_what_runs_and_what_is_left_also_when_it_gets_lower(report_file: Path) -> None:
    async def main() -> None:
        app = Viewer(None, report_file.parent, job=work(report_file, "wait"))
        async with app.run_test(size=(80, 12)) as pilot:
            panel = app.screen.query_one(JobPanel)
            await until(pilot, lambda: panel.stages and panel.stages[-1].detail == "ready", "ready")
            panel.parts = {f"{number}: ": f"part {number}" for number in range(12)}
            for number in range(10):
                panel.tell({"stage": f"{number}: begun"})
            await shows(pilot, "9: begun", "left: part 10, part 11")
            await pilot.resize_terminal(80, 8)
            await shows(pilot, "9: begun", "left: part 10, part 11")
            await pilot.press("q")

    asyncio.run(main())


def test_a_low_panel_shows_the_stage_that_runs(report_file: Path) -> None:
    async def main() -> str:
        app = Viewer(None, report_file.parent, job=work(report_file, "wait"))
        async with app.run_test(size=(80, 8)) as pilot:
            panel = app.screen.query_one(JobPanel)
            await until(pilot, lambda: panel.stages and panel.stages[-1].detail == "ready", "ready")
            for number in range(11):
                panel.tell({"stage": f"stage {number}"})
            text = await shows(pilot, "stage 10")
            await pilot.press("q")
            return text

    assert "▶" in asyncio.run(main())


def test_a_scan_is_shown_and_then_its_report(report_file: Path) -> None:
    async def main() -> Viewer:
        app = Viewer(None, report_file.parent, job=work(report_file))
        async with app.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: app.screen.query(FindingList), "shown the report")
            assert "SYN001" in await settled(pilot)
            await pilot.press("q")
        return app

    app = asyncio.run(main())
    assert app.return_value
    assert app.return_value.code == 0


def test_q_stops_a_scan_and_shows_what_was_recorded(report_file: Path) -> None:
    async def main() -> None:
        app = Viewer(None, report_file.parent, job=work(report_file, "wait"))
        async with app.run_test(size=(80, 24)) as pilot:
            panel = app.screen.query_one(JobPanel)
            await until(pilot, lambda: panel.stages and panel.stages[-1].detail == "ready", "ready")
            await shows(pilot, "[bold]denoising", "2/4 ready", "said")
            await pilot.press("q")
            await until(pilot, lambda: app.screen.query(FindingList), "shown the report")
            assert not isinstance(app.screen, LiveScreen)

    asyncio.run(main())


def test_a_scan_without_a_report_ends_the_viewer(tmp_path: Path) -> None:
    async def main() -> Viewer:
        job = Job(["show", "nope", "--traces", str(tmp_path)], "Scanning")
        app = Viewer(None, tmp_path, job=job)
        async with app.run_test() as pilot:
            await until(pilot, lambda: app.return_value is not None, "over")
        return app

    ended = asyncio.run(main()).return_value
    assert ended
    assert ended.code == 2
    assert "There is no run 'nope'" in ended.talk[0]


def test_progress_lines_go_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setenv(DESCRIPTOR, str(writer))
    progress = progress_on(sys.stderr, quiet=True)
    assert isinstance(progress, Lines)
    progress.stage("a", total=2)
    progress.step("é")
    progress.close()
    assert os.read(reader, 1_000) == (b'{"stage": "a", "total": 2}\n{"step": "\\u00e9", "amount": 1}\n')
    os.close(reader)
    os.close(writer)
    progress.stage("nobody reads")
    monkeypatch.setenv(DESCRIPTOR, "x")
    assert type(progress_on(sys.stderr, quiet=True)) is Progress
