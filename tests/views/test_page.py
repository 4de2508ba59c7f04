from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diffprof.views.page import Page
from diffprof.views.plain import clean_lines, width


@given(st.text(max_size=300), st.integers(40, 120), st.integers(0, 8))
def test_flow_keeps_every_word_and_the_width(text: str, columns: int, indent: int) -> None:
    page = Page(columns)
    page.flow(text, indent=indent, label="cost")
    shown = page.text()
    said = " ".join(clean_lines(text)).split(" ")
    assert shown.split()[1:] == [word for part in said for word in part.split()]
    for line in shown.splitlines():
        assert width(line) <= columns or len([word for word in line.split(" ") if word]) <= 2


def test_flow_hangs_under_its_label() -> None:
    page = Page(40)
    page.flow("one two three four five six seven", label="cost", indent=2)
    assert page.text() == "  cost     one two three four five six\n           seven\n"


def test_columns_align_by_cells_and_numbers_go_right() -> None:
    page = Page()
    page.table(("name", "n", "rest"), [("词", "5", "a"), ("abcdef", "12", "b")])
    assert page.text().splitlines() == ["name     n  rest", "词       5  a", "abcdef  12  b"]


def test_a_name_that_begins_with_a_digit_is_no_number() -> None:
    page = Page()
    page.table(("run", "size", "x"), [("20260102-x", "2.57 B", "1"), ("a", "900", "2")])
    assert page.text().splitlines()[1:] == ["20260102-x  2.57 B  1", "a              900  2"]


def test_a_table_without_rows_has_its_heading() -> None:
    page = Page()
    page.table(("a", "b"), [])
    assert page.text() == "a  b\n"


def test_colour_changes_nothing_but_colour() -> None:
    page = Page(colour=True)
    page.raw(("red", "x"), " y")
    assert page.text() == "\x1b[31mx\x1b[0m y\n"
