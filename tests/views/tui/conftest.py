"""The viewer without a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from diffprof.judge.rules import Rule
from diffprof.model.plain import width
from diffprof.model.report import Report
from diffprof.views.tui.app import Viewer
from diffprof.views.tui.key_bar import KeyBar
from diffprof.views.tui.report_screen import ReportScreen
from diffprof.views.tui.table import TableView
from tests.views.tui import reports

Body = Callable[[Pilot], Awaitable[Any]]
Drive = Callable[..., Any]


def screen_text(pilot: Pilot) -> str:
    """The characters on the screen."""
    lines = pilot.app.screen._compositor.render_strips(pilot.app.screen.size)
    return "".join(f"{strip.text.rstrip()}\n" for strip in lines)


async def click_on(pilot: Pilot, text: str) -> None:
    """Click on the end of the first place of the screen where that stands."""
    lines = screen_text(pilot).splitlines()
    y, x = next((y, line.index(text)) for y, line in enumerate(lines) if text in line)
    await pilot.click(offset=(width(lines[y][:x] + text) - 1, y))
    await pilot.pause()


async def settled(pilot: Pilot) -> str:
    """The screen once it no longer changes: every message has been handled, what is read from files or worked
    out in a thread has arrived, and three drawings in a row were alike."""
    seen: list[str] = []
    for _ in range(200):
        if reading := [each for each in pilot.app.workers if each.group != "default"]:
            await pilot.app.workers.wait_for_complete(reading)
        await pilot.pause(0.02)
        seen.append(screen_text(pilot))
        if seen[-3:] == [seen[-1]] * 3 and all(bar.keys for bar in pilot.app.screen.query(KeyBar)):
            break
    return seen[-1]


async def until(pilot: Pilot, ready: Callable[[], Any], what: str, seconds: float = 60.0) -> None:
    """Go on when that is so, however long it takes; fails with what was waited for, and the screen."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"never {what}:\n{screen_text(pilot)}"
        await pilot.pause(0.02)


def patient(pilot: Pilot) -> Pilot:
    """A pilot whose keys and clicks have been handled when `press` and `click` return. Textual's own takes a
    process that gets no CPU for one that has nothing to do."""
    press, click = pilot.press, pilot.click

    async def handled() -> None:
        for _ in range(4):  # from the screen to the widget with the focus, and back as a message
            await pilot._wait_for_screen()

    async def pressed(*keys: str) -> None:
        for key in keys:
            await press(key)
            await handled()

    async def clicked(*args: Any, **more: Any) -> bool:
        found = await click(*args, **more)
        await handled()
        return found

    pilot.press = pressed  # type: ignore[method-assign]
    pilot.click = clicked  # type: ignore[method-assign]
    return pilot


def table(pilot: Pilot, pane: str) -> TableView[Any]:
    return pilot.app.screen.query_one(f"{pane} TableView", TableView)


def _check(recording: object) -> object:
    """What every rule says here.

    What it does:
    Finds `x`.

    Why it is slow:
    It waits, and this line is as long as the lines of a docstring get, so that it is joined with
    the next.

    Example:
    x.item()

    Use instead:
    y

    Fix safety:
    Exact.
    """


async def shows(pilot: Pilot, *parts: str, seconds: float = 60.0) -> str:
    """The screen as soon as it has all of these, however long what writes them takes. Lines are joined; what
    stands in a message on top of the screen is read by itself."""
    until = time.monotonic() + seconds
    while True:
        text = screen_text(pilot)
        words = " ".join([text, *_messages(pilot)])
        words = " ".join(words.split())
        missing = [part for part in parts if part not in words]
        if not missing:
            return text
        assert time.monotonic() < until, f"{missing} not on the screen:\n{text}"
        await pilot.pause(0.02)


def _messages(pilot: Pilot) -> list[str]:
    lines = pilot.app.screen._compositor.render_strips(pilot.app.screen.size)
    found = []
    for toast in pilot.app.screen.query("Toast"):
        x, y, width, height = toast.content_region
        found.append(" ".join(strip.crop(x, x + width).text for strip in lines[max(y, 0) : y + height]))
    return found


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules' pages and fixes of the tests' own, so that the stored screens are the viewer's alone."""
    monkeypatch.setattr(
        "diffprof.views.tui.finding_page.find_rule",
        lambda code: Rule(code, "a-rule", "syncs", ("syncs",), _check),  # type: ignore[arg-type]
    )
    monkeypatch.setattr("diffprof.judge.plan.recipes", lambda: reports.RECIPES)


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """`drive(report, body)` shows a report, awaits body(pilot) and gives what that returns.

    A list of keys instead of a body presses them and gives the screen as text. planned: begin when the plan
    of fixes has been worked out.
    """

    def run(
        report: Report,
        body: Body | Iterable[str],
        *,
        size: tuple[int, int] = (80, 24),
        traces: Path | None = None,
        planned: bool = True,
        **more: Any,
    ) -> Any:
        async def main() -> Any:
            app = Viewer(report, traces or tmp_path, **more)
            async with app.run_test(size=size, notifications=True) as pilot:
                patient(pilot)
                screen = app.screen
                if planned and isinstance(screen, ReportScreen):
                    await until(pilot, lambda: screen.plan is not None, "planned")
                    await settled(pilot)
                if callable(body):
                    return await body(pilot)
                await pilot.press(*body)
                return await settled(pilot)

        return asyncio.run(main())

    return run
