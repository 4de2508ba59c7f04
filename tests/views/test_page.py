from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from diffprof.model.plain import clean, clean_lines, width
from diffprof.views.page import Page


@given(st.text(max_size=300), st.integers(40, 120), st.integers(0, 8))
def test_flow_keeps_every_word_and_the_width(text: str, columns: int, indent: int) -> None:
    said = [word for part in " ".join(clean_lines(text)).split(" ") for word in part.split()]
    piped, screen = Page(), Page(columns)
    for page in (piped, screen):
        page.flow(text, indent=indent, label="cost")
    assert piped.text().split()[1:] == said
    for line in piped.lines:
        assert width(line) <= 80 or len([word for word in line.split(" ") if word]) <= 2
    assert "".join(screen.text().split())[4:] == "".join(said)
    assert all(width(line.rstrip()) <= columns for line in screen.lines)


CELLS = st.lists(st.lists(st.text(max_size=60), min_size=4, max_size=4), min_size=1, max_size=4)


@given(CELLS, st.integers(40, 120), st.integers(0, 4))
@example([["", "", "", "::"]], 40, 0)
def test_a_table_fits_the_screen_and_loses_nothing(rows: list[list[str]], columns: int, indent: int) -> None:
    page = Page(columns)
    page.table(("a", "b", "c", "d"), rows, indent=indent)
    assert all(width(line) <= columns for line in page.lines)
    shown = sorted(page.text().replace("\u2236", ":"))  # no line begins with two colons
    said = "".join(clean(cell) for row in rows for cell in row)
    for char in {char for char in said if not char.isspace()} - set("abcd;"):
        assert shown.count(char) == said.count(char)


def test_a_narrow_screen_narrows_the_widest_column_and_then_gives_up_the_columns() -> None:
    row = ("36.4", "denoise, step 1", "diffusers/pipelines/sdxl/pipeline.py:406 before a wait")
    page = Page(60)
    page.table(("ms", "phase", "longest is"), [row])
    assert page.text() == (
        "  ms  phase            longest is\n"
        "36.4  denoise, step 1  diffusers/pipelines/sdxl/\n"
        "                       pipeline.py:406 before a wait\n"
    )
    page = Page(40)
    page.table(
        ("ms", "phase of the call", "module in it", "longest is"), [(*row[:2], "unet.mid_block", row[2])]
    )
    assert page.text() == (
        "ms 36.4; phase of the call denoise,\n"
        "  step 1; module in it unet.mid_block;\n"
        "  longest is\n"
        "  diffusers/pipelines/sdxl/\n"
        "  pipeline.py:406 before a wait\n"
    )


def test_a_word_of_megabytes_is_no_trouble() -> None:
    page = Page(40)
    page.flow("x" * 2_000_000)
    page.table(("a", "b"), [("y" * 2_000_000, "1")])
    assert all(width(line) <= 40 for line in page.lines)
    assert page.text().count("x") == page.text().count("y") == 2_000_000


def test_places_stay_one_line_where_nobody_reads_on_a_screen() -> None:
    place = (("cyan", "diffusers/schedulers/scheduling_ddim.py:282"), " in DDIMScheduler._get_variance")
    piped, screen = Page(), Page(60)
    for page in (piped, screen):
        page.whole(*place, indent=2)
        page.code("> 282 | ", "x = " + "y" * 70)
    assert [len(line) for line in piped.lines] == [76, 82]
    assert [line.strip() for line in screen.lines[:2]] == [place[0][1] + " in", "DDIMScheduler._get_variance"]
    assert screen.lines[2] == "> 282 | x = " + "y" * 47 + "…"


def test_flow_hangs_under_its_label() -> None:
    page = Page(40)
    page.flow("one two three four five six seven", label="cost", indent=2)
    assert page.text() == "  cost     one two three four five six\n           seven\n"


def test_no_line_is_a_command_to_a_ci_log() -> None:
    """Neither by a line break, nor where words are wrapped, nor indented: runners skip the spaces before."""
    page = Page()
    page.flow("first\n::error::second")
    page.flow(f"{'x' * 78} ::error::third", indent=1)
    page.raw("::add-mask::at::fourth")
    assert page.text().splitlines() == [
        *("first", "  \u2236:error::second"),
        *(" " + "x" * 78, " \u2236:error::third"),
        "\u2236:add-mask::at::fourth",
    ]


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
