"""The viewer without a terminal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from diffprof.report import Report
from diffprof.rules import Rule
from diffprof.views.tui.app import Viewer
from tests.views.tui import reports

Body = Callable[[Pilot], Awaitable[Any]]
Drive = Callable[..., Any]
SETTLED = 0.08
"""Seconds: longer than the pause before the page of a finding is written."""


def screen_text(pilot: Pilot) -> str:
    """The characters on the screen."""
    lines = pilot.app.screen._compositor.render_strips(pilot.app.screen.size)
    return "".join(f"{strip.text.rstrip()}\n" for strip in lines)


async def settled(pilot: Pilot) -> str:
    """The screen once it no longer changes: pages and the footer's keys follow a moment later, and what is
    read from files when it has been read."""
    await pilot.pause(SETTLED)
    if reading := [each for each in pilot.app.workers if each.group != "default"]:
        await pilot.app.workers.wait_for_complete(reading)
    text = screen_text(pilot)
    for _ in range(100):
        await pilot.pause(0.02)
        last, text = text, screen_text(pilot)
        screen = pilot.app.screen
        if text == last and (screen.query("FooterKey") or not screen.query("Footer")):
            break
    return text


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


async def shows(pilot: Pilot, *parts: str, seconds: float = 20.0) -> str:
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
    monkeypatch.setattr("diffprof.tuning.plan.recipes", lambda: reports.RECIPES)


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    """`drive(report, body)` shows a report, awaits body(pilot) and gives what that returns.

    A list of keys instead of a body presses them and gives the screen as text.
    """

    def run(
        report: Report,
        body: Body | Iterable[str],
        *,
        size: tuple[int, int] = (80, 24),
        traces: Path | None = None,
        **more: Any,
    ) -> Any:
        async def main() -> Any:
            app = Viewer(report, traces or tmp_path, **more)
            async with app.run_test(size=size, notifications=True) as pilot:
                await pilot.pause(SETTLED)
                if callable(body):
                    return await body(pilot)
                await pilot.press(*body)
                return await settled(pilot)

        return asyncio.run(main())

    return run
