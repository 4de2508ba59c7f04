from __future__ import annotations

import pytest

from diffprof.cli.docs import pages
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
