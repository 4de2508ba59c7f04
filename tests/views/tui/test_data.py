"""Queries, groups of kernels, drawn text: plain data in and out."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffprof.model.plain import width
from diffprof.views.tui.finding_query import FindingIndex, Query
from diffprof.views.tui.kernel_groups import WAYS, grouped
from diffprof.views.tui.styles import Writing, bar, laid_out, styled
from diffprof.views.tui.table import cut_front
from diffprof.views.words import spark
from tests import builders
from tests.views.test_hostile import hidden
from tests.views.tui import reports


def test_a_query_asks_for_everything_in_it() -> None:
    index = FindingIndex(reports.full().findings)
    assert index.matching(Query()) is index.findings
    assert index.choices("analyzer") == ("syncs", "kernels", "graph breaks", "quantization")
    assert index.choices("phase") == ("denoise", "encode")
    assert index.choices("loop") == ("in loop", "outside")
    found = index.matching(Query(text="VALUE ddim", grade="simulated", loop="in loop", phase="denoise"))
    assert [finding.rule for finding in found] == ["SYN001"]
    assert index.matching(Query(text="value", loop="outside")) == []


def test_the_next_choice_comes_round() -> None:
    index = FindingIndex(reports.full().findings)
    query = Query()
    seen = []
    for _ in range(3):
        query = index.next_choice(query, "grade")
        seen.append(query.grade)
    assert seen == ["simulated", "measured", ""]


def test_a_rule_of_another_version_goes_by_its_prefix() -> None:
    index = FindingIndex([builders.make_finding("OLD007", "gone")])
    assert index.choices("analyzer") == ("OLD",)


@pytest.mark.parametrize("by", WAYS)
def test_groups_hold_every_kernel_once(by: str) -> None:
    kernels = reports.recording().kernels or ()
    groups = grouped(kernels, by)
    assert sum(group.device_us for group in groups) == 650.0
    assert sum(group.count for group in groups) == 15
    assert sum(group.share for group in groups) == pytest.approx(1.0)
    assert sorted(id(row) for group in groups for row in group.rows) == sorted(map(id, kernels))


def test_rates_are_of_what_is_known() -> None:
    linear, *_ = grouped(reports.recording().kernels or (), "kernel")
    assert (linear.mean_us, linear.tflops, linear.gbytes) == (40.0, 100.0, 100.0)
    unknown = builders.KernelRow(name="x", op="", family="", count=0, device_us=0.0)
    (group,) = grouped([unknown], "op")
    assert (group.name, group.mean_us, group.tflops, group.gbytes) == ("(unknown)", 0.0, None, None)


def test_bars() -> None:
    assert bar(0.0, 4) == "    "
    assert bar(1e-9, 4) == "▏   "
    assert bar(0.5, 4) == "██  "
    assert bar(7.0, 4) == "████"
    assert spark([0, 1, 2]) == " ▄█"
    assert spark([]) == ""


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=[]), max_size=80), st.integers(20, 60))
def test_any_text_is_laid_out_within_its_columns_as_text(text: str, columns: int) -> None:
    page = Writing()
    page.heading(text)
    page.flow(text)
    page.fact("label", text)
    page.kept(text)
    page.code(text)
    page.diff(text)
    page.excerpt(((1, text), (2, "x = 1")), 1)
    lines = laid_out(page.blocks, columns)
    assert all(line.cell_length <= columns for line in lines)
    assert not any(hidden(line.plain) for line in lines)


def test_markup_is_no_markup() -> None:
    assert styled("[bold]x[/bold]").plain == "[bold]x[/bold]"
    assert styled(("strong", "[red]x")).spans[0].style == "bold"


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.text(max_size=30).map(lambda text: "".join(filter(str.isprintable, text))), st.integers(2, 20))
def test_the_end_of_a_name_is_kept(text: str, cells: int) -> None:
    shown = cut_front(text, cells)
    assert width(shown) <= cells
    assert shown == text or (shown[0] == "…" and text.endswith(shown[1:]))
