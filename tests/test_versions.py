"""pyproject.toml's ranges and classifiers promise no more than the rows of the matrix try."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement

from tests.versions import CHECKS, ROOT, ROWS, USUAL, Result, pinned, table

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RANGES = {each.name: each.specifier for each in map(Requirement, PROJECT["dependencies"])}


@pytest.mark.parametrize("name", ["torch", "diffusers"])
def test_the_ends_of_a_range_are_tried(name: str) -> None:
    tried = {(USUAL | row.pins)[name].rsplit(".", 1)[0] for row in ROWS}
    lower = next(each.version for each in RANGES[name] if each.operator == ">=")
    major, end = next(each.version for each in RANGES[name] if each.operator == "<").split(".")
    assert {lower, f"{major}.{int(end) - 1}"} <= tried


def test_the_pythons_that_are_named_are_tried() -> None:
    named = {each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each}
    assert named <= {row.python for row in ROWS}


def test_each_package_has_a_lower_bound_that_is_tried() -> None:
    lowest = next(row for row in ROWS if row.lowest)
    assert all("==" in line for line in lowest.requirements())


@pytest.mark.parametrize(
    ("line", "pins", "lowest", "expected"),
    [
        ("torch>=2.11,<2.16", {"torch": "2.13.0"}, False, "torch==2.13.0"),
        ("torch-tb-profiler>=0.4.3", {"torch": "2.13.0"}, False, "torch-tb-profiler>=0.4.3"),
        ("torch-tb-profiler>=0.4.3", {"torch": "2.13.0"}, True, "torch-tb-profiler==0.4.3"),
        ("diffusers>=0.38,<0.43", {}, True, "diffusers==0.38"),
    ],
)
def test_a_requirement_is_pinned(line: str, pins: dict[str, str], lowest: bool, expected: str) -> None:
    assert pinned(line, pins, lowest=lowest) == expected


def test_a_row_passes_when_it_was_checked_and_nothing_failed() -> None:
    good = dict.fromkeys(CHECKS, "")
    assert Result("a", "3.11", checks=good).passed
    assert not Result("a", "3.11", checks=good | {"sdxl": "AssertionError"}).passed
    assert not Result("a", "3.11", checks={"sdxl": ""}).passed  # of a matrix with fewer checks
    assert not Result("a", "3.11").passed
    assert not Result("a", "3.14", failed="no Python 3.14 here").passed


def test_the_table_says_what_failed_and_why() -> None:
    rows = [
        Result("a", "3.11", {"torch": "2.11.0"}, {"sdxl": "", "fix": "Error"}),
        Result("b", "3.14", failed="no"),
    ]
    head, a, b = table(rows).splitlines()
    assert head.split()[:3] == ["row", "python", "torch"]
    assert a.split()[:3] == ["a", "3.11", "2.11.0"]
    assert a.split()[-len(CHECKS) :] == [{"sdxl": "ok", "fix": "FAILS"}.get(name, "-") for name in CHECKS]
    assert b.split() == ["b", "3.14", "no"]
