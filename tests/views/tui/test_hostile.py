"""Nothing in a report acts on the screen, the palette or a message; both themes can be read."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from rich.color import Color as RichColor
from textual.color import Color
from textual.pilot import Pilot

from diffprof.model.report import Report, save_report
from diffprof.views.tui.app import Viewer
from diffprof.views.tui.themes import DARK, LIGHT
from tests import builders
from tests.views.poison import TEXTS, poisoned, whole
from tests.views.test_hostile import hidden
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, settled

LEAST_CONTRAST = 3.0
"""WCAG 2.2 asks for 4.5 of text and 3 of what is large or not essential (1.4.3, 1.4.11)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ugly", "long-names"])
def test_no_control_character_reaches_the_screen(name: str, drive: Drive) -> None:
    async def body(pilot: Pilot) -> str:
        seen = await settled(pilot)
        for key in ("v", "2", "3", "enter", "4", "5", "6", "7", "8", "1", "enter"):
            await pilot.press(key)
            seen += await settled(pilot)
        return seen

    assert hidden(drive(builders.HARD[name](), body)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_every_text_of_every_tab_is_text(name: str, drive: Drive, tmp_path: Path) -> None:
    traces = tmp_path / "runs"
    report = poisoned(whole(), TEXTS[name])
    save_report(report, traces / "[bold]run[/bold] \u202e\x1b[31m 词")
    save_report(report, traces / "other")

    async def body(pilot: Pilot) -> str:
        seen = await settled(pilot)
        for key in (*"vw2", "enter", "3", "enter", *"45c6", "down", *"78c1", "enter"):
            await pilot.press(key)
            seen += await settled(pilot)
            strips = pilot.app.screen._compositor.render_strips(pilot.app.screen.size)
            assert {strip.cell_length for strip in strips} == {80}, key
        return seen

    assert hidden(drive(report, body, traces=traces)) <= {"\u200c", "\u200d"}


def test_markup_is_shown_as_typed(drive: Drive) -> None:
    text = drive(builders.ugly(), ["enter"], size=(120, 40))
    assert r"\x1b[31mred\x1b[0m [bold]markup[/bold] <script>" in text


@pytest.mark.slow
def test_the_palette_shows_markup_as_typed(drive: Drive) -> None:
    finding = builders.make_finding(name="[bold]x[/bold] [@click=app.quit]y")

    async def body(pilot: Pilot) -> str:
        await pilot.press("ctrl+p", *"syn001")
        await pilot.pause(0.5)
        return await settled(pilot)

    assert "[bold]x[/bold] [@click=app.quit]y" in drive(builders.make_report(finding), body)


@pytest.mark.slow
@pytest.mark.parametrize("theme", [DARK, LIGHT])
def test_text_stands_out(theme: str, tmp_path: Path) -> None:
    poor = asyncio.run(_poor_contrasts(reports.full(), theme, tmp_path))
    assert not poor, poor[:10]


async def _poor_contrasts(report: Report, theme: str, traces: Path) -> list[tuple[str, str, float]]:
    """(tab, text, contrast) of what can hardly be read."""
    app = Viewer(report, traces)
    found = []
    async with app.run_test(size=(120, 40)) as pilot:
        app.theme = theme
        for tab in "1234567":
            await pilot.press(tab)
            await settled(pilot)
            for strip in app.screen._compositor.render_strips(app.screen.size):
                for text, style, _ in strip:
                    if style is None or not any(char.isalnum() for char in text):
                        continue
                    ratio = contrast(style.color, style.bgcolor)
                    if ratio is not None and ratio < LEAST_CONTRAST:
                        found.append((tab, text.strip(), round(ratio, 2)))
    return found


def contrast(front: RichColor | None, back: RichColor | None) -> float | None:
    if front is None or back is None or front.triplet is None or back.triplet is None:
        return None
    lights = sorted(_light(Color(*each.triplet)) for each in (front, back))
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _light(color: Color) -> float:
    """Relative luminance: https://www.w3.org/TR/WCAG22/#dfn-relative-luminance"""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color.normalized]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
