from __future__ import annotations

import re

import pytest

from diffprof.cli.docs import pages
from diffprof.cli.terminal_pages import drawn, fitted
from tests.cli.conftest import Run


def test_lists_every_page_with_its_title(run: Run) -> None:
    result = run("docs")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(pages())
    assert "serve-sdxl" in result.stdout
    assert "I serve SDXL" in result.stdout


@pytest.mark.parametrize("name", pages())
def test_a_page_is_printed_whole_in_a_pipe(run: Run, name: str) -> None:
    result = run("docs", name)
    assert result.exit_code == 0
    assert result.stdout == pages()[name].read_text(encoding="utf-8")


def test_a_page_that_is_not_there_names_the_nearest(run: Run) -> None:
    result = run("docs", "comands")
    assert result.exit_code == 2
    assert "commands" in result.stderr


@pytest.mark.parametrize("name", ["targets-table", "findings", "commands", "fit", "several-gpus"])
def test_on_80_columns_no_line_is_longer_and_no_name_is_cut(name: str) -> None:
    text = pages()[name].read_text(encoding="utf-8")
    shown = drawn(text, 80, colour=False)
    assert max(len(line) for line in shown.splitlines()) <= 80
    assert shown.count("…") == text.count("…")
    if name == "targets-table":
        assert re.search(r"^ animatediff +3", shown, re.MULTILINE)


def test_widths_go_to_where_cells_take_most_lines() -> None:
    assert fitted([["name", "a-long-name"], ["what", "it does this and that"]], 40) == [11, 21]
    assert fitted([["name", "a-long-name"], ["what", "it does this and that"]], 20) == [11, 9]
    assert fitted([["a" * 12], ["b" * 30]], 24) == [12, 12], "words without room are folded, names last"
    assert fitted([["a" * 30], ["b" * 30]], 24) == [14, 10]


def test_long_lines_of_code_go_on_indented() -> None:
    line = "    scan(" + ", ".join(f"argument_{n}=1" for n in range(8)) + ")"
    first, second = drawn(f"```python\n{line}\n```\n", 80, colour=False).strip().splitlines()
    assert (first + second).split() == line.split()
    assert second.startswith(" " * 9 + "argument_")
