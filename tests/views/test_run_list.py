"""The list of runs at the widths of screens, and in a pipe."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffprof.model.plain import clean, width
from diffprof.model.runs import StoredRun
from diffprof.views.run_list import cut_middle, run_list, told_apart
from tests.builders import UGLY
from tests.views.test_hostile import hidden

NOW = datetime.datetime(2026, 1, 2, 4, tzinfo=datetime.UTC)
SCREENS = (60, 80, 200)


def make_run(name: str, target: str = "sdxl", **fields: object) -> StoredRun:
    given = {
        "device": "sim:a100-80gb",
        "created": "2026-01-02T03:04:05+00:00",
        "findings": 41,
        "in_loop": 7,
        **fields,
    }
    return StoredRun(name=name, folder=Path("traces") / name, target=target, **given)  # type: ignore[arg-type]


USUAL = [make_run(f"20260102-03040{n}-sdxl") for n in range(3)]
LONG = [
    make_run(f"2026010{n}-030405-stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-base-1.0")
    for n in range(1, 4)
]
VERY_LONG = [make_run(f"{'a' * 200}{n}{'b' * 200}", "org/" + "x" * 500) for n in range(3)]
HOSTILE = [
    make_run(f"20260102-030405-{UGLY}", UGLY, device=UGLY),
    make_run("\u202e" * 40 + "词" * 100, "词" * 60),
    StoredRun(name="broken", folder=Path("traces/broken"), error=f"{UGLY} " * 12),
    make_run("partial", partial=True),
]
RUNS = {"usual": USUAL, "long": LONG, "very long": VERY_LONG, "hostile": HOSTILE}


@pytest.mark.parametrize("columns", SCREENS)
@pytest.mark.parametrize("name", RUNS)
def test_every_line_fits_the_screen_as_text(name: str, columns: int) -> None:
    shown = run_list(RUNS[name], "text", NOW, columns=columns)
    assert max(map(width, shown.splitlines())) <= columns
    assert not hidden(shown) - {"\n"}


@pytest.mark.parametrize("name", RUNS)
def test_in_a_pipe_every_text_stands_whole(name: str) -> None:
    _, *lines = run_list(RUNS[name], "text", NOW).splitlines()
    assert len(lines) == len(RUNS[name])
    for run, line in zip(RUNS[name], lines, strict=True):
        assert clean(run.name) in line
        assert clean(run.target) in line
        assert clean(run.error or "").strip() in line


def test_a_usual_run_takes_one_line_of_80_columns() -> None:
    head, *lines = run_list(USUAL, "text", NOW, columns=80).splitlines()
    assert head.split() == ["run", "target", "device", "findings", "in", "loop", "age"]
    assert [line.split()[0] for line in lines] == [run.name for run in USUAL]


@pytest.mark.parametrize("columns", SCREENS)
def test_a_long_run_takes_few_lines_and_keeps_its_name(columns: int) -> None:
    shown = run_list(LONG, "text", NOW, columns=columns)
    assert len(shown.splitlines()) <= 1 + 3 * len(LONG)
    together = re.sub(r"\s+", "", shown)
    for number in range(1, 4):
        assert f"2026010{number}-030405-" in together


@pytest.mark.parametrize("columns", SCREENS)
def test_names_that_differ_in_their_middle_are_told_apart(columns: int) -> None:
    shown = run_list(VERY_LONG, "text", NOW, columns=columns)
    assert len(shown.splitlines()) <= 1 + 6 * len(VERY_LONG)
    for number in range(3):
        assert f"{number}bbb" in re.sub(r"\s+", "", shown)


@settings(deadline=None, max_examples=80)
@given(st.lists(st.text("ab词", max_size=40), max_size=6), st.integers(8, 20))
def test_names_that_differ_stay_apart(names: list[str], cells: int) -> None:
    shown = told_apart(names, cells)
    assert len(set(shown)) == len(set(names))
    for name, short in zip(names, shown, strict=True):
        assert short == name or width(short) <= cells


def test_why_a_run_cannot_be_read_stands_below_the_list() -> None:
    runs = [
        make_run("20260102-030405-sdxl"),
        StoredRun(name="bad", folder=Path("bad"), error="It is no report."),
    ]
    _, first, second, *below = run_list(runs, "text", NOW, columns=80).splitlines()
    assert first.startswith("20260102-030405-sdxl ")
    assert second.split() == ["bad", "damaged"]
    assert below == ["bad: It is no report."]


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(st.text(max_size=60).map(clean), st.integers(3, 30))
def test_the_beginning_and_the_end_of_a_text_are_kept(text: str, cells: int) -> None:
    shown = cut_middle(text, cells)
    assert width(shown) <= cells
    if shown != text:
        head, _, end = shown.partition("…") if "…" not in text else ("", "", "")
        assert text.startswith(head)
        assert text.endswith(end)
