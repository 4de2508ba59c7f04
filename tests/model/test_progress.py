from __future__ import annotations

import io
import threading
from typing import Any

import pytest

from diffprof.model.progress import Bar, Progress, progress_on


class Screen(io.StringIO):
    """A terminal that keeps what it was told."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Timers that fire when the test says so."""
    made: list[Any] = []

    class Timer:
        daemon = False

        def __init__(self, delay: float, call: Any) -> None:
            self.delay, self.call, self.started, self.cancelled = delay, call, False, False
            made.append(self)

        def start(self) -> None:
            self.started = True

        def cancel(self) -> None:
            self.cancelled = True

    monkeypatch.setattr("diffprof.model.progress.threading.Timer", Timer)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    return made


def test_silent_where_nobody_looks() -> None:
    assert type(progress_on(io.StringIO())) is Progress
    assert type(progress_on(Screen(), quiet=True)) is Progress
    with Progress.silent() as silent:
        silent.stage("x", 3)
        silent.step("y")


def test_short_work_shows_nothing(timers: list[Any]) -> None:
    screen = Screen()
    with progress_on(screen) as bar:
        bar.stage("building", 2)
        bar.step()
    assert timers[0].started
    assert timers[0].cancelled
    assert timers[0].delay == 1.0
    assert screen.getvalue() == ""


def test_long_work_shows_its_stage_and_cleans_up(timers: list[Any]) -> None:
    before = set(threading.enumerate())
    screen = Screen()
    bar = Bar(screen)
    bar.stage("building [bold]x[/bold] \x1b[2J", 2)
    timers[0].call()
    bar.step("unet")
    bar.stage("scanning", 30)
    bar.step()
    bar.close()
    shown = screen.getvalue()
    assert r"building [bold]x[/bold] \x1b[2J" in shown
    assert "scanning" in shown
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_stages_of_a_part_name_it_and_share_a_clock(timers: list[Any]) -> None:
    screen = Screen()
    with Bar(screen) as bar:
        timers[0].call()
        began = bar._shown.tasks[0].start_time
        bar.part("tf32", "Let products run in TF32", "2/5")
        bar.stage("timing", 4)
        bar.step()
        (task,) = bar._shown.tasks
        assert (task.description, task.fields["count"]) == ("2/5 tf32: timing", "1/4")
        bar.stage("denoising, step 3")
        assert (task.total, task.fields["count"], task.start_time) == (None, "", began)


def test_a_timer_that_fires_after_the_end_shows_nothing(timers: list[Any]) -> None:
    screen = Screen()
    bar = Bar(screen)
    bar.close()
    timers[0].call()
    assert screen.getvalue() == ""
