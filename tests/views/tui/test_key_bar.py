"""The row of keys: what fits, what follows the focus, what the mouse does."""

from __future__ import annotations

import pytest
from textual.pilot import Pilot

from diffprof.views.tui.filter_bar import Search
from diffprof.views.tui.key_bar import KeyBar, KeyHint, row_of
from tests.views.tui import reports
from tests.views.tui.conftest import Drive, click_on, screen_text, settled

KEYS = (
    KeyHint("s", "s", "Sort"),
    KeyHint("a", "a", "", ends=False),
    KeyHint("p", "p", "Filter"),
    KeyHint("enter", "⏎", "开"),
    KeyHint("question_mark", "?", "Help", everywhere=True),
    KeyHint("q", "q", "Quit", everywhere=True),
)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (80, "s Sort  ap Filter  ⏎ 开  ? Help  q Quit"),
        (39, "s Sort  ap Filter  ⏎ 开  ? Help  q Quit"),
        (38, "s Sort ap Filter ⏎ 开 ? Help q Quit"),
        (34, "s Sort ap Filter … ? Help q Quit"),
        (31, "s Sort … ? Help q Quit"),
        (8, "… ? Help q Quit"),
    ],
)
def test_what_does_not_fit_goes_but_for_help_and_quit(columns: int, text: str) -> None:
    assert "".join(piece.text.plain for piece in row_of(KEYS, columns)) == text


def test_it_follows_the_focus(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        bar = pilot.app.screen.query_one(KeyBar)
        listed = bar.keys
        texts = [key.text for key in listed if key.text]
        assert texts == ["Sort", "Search", "Filter", "Clear", "What-if", "Copy", "Export", "Help", "Quit"]
        await pilot.press("slash")
        await settled(pilot)
        assert screen_text(pilot).splitlines()[-1] == "⏎ To the list  esc Clear", "letters are typed"
        await pilot.press("enter")
        assert bar.keys == listed

    drive(reports.full(), body)


def test_a_click_does_what_the_key_does(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        await click_on(pilot, "/ Search")
        assert isinstance(pilot.app.focused, Search)

    drive(reports.full(), body)


def test_the_key_under_the_mouse_stands_out(drive: Drive) -> None:
    async def body(pilot: Pilot) -> None:
        bar = pilot.app.screen.query_one(KeyBar)
        before = bar.render()
        await pilot.hover(KeyBar, offset=(0, 0))
        await pilot.pause()
        assert bar.render().spans != before.spans
        assert bar.render().plain == before.plain
        await pilot.hover("Article")
        await pilot.pause()
        assert bar.render().spans == before.spans

    drive(reports.full(), body)
