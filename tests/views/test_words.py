from __future__ import annotations

import datetime

import pytest

from diffprof.model import units
from diffprof.model.recording import Grade
from diffprof.views import words
from tests.builders import make_finding


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.00001, "1.0e-05"),
        (0.01234, "0.0123"),
        (1.5, "1.5"),
        (24, "24"),
        (99.96, "100"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert units.number(value) == shown


def test_unknown_is_said() -> None:
    assert units.milliseconds(None) == units.seconds(None) == units.size(None) == "not measured"
    assert units.milliseconds(0.0) == "0 ms"


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"in_loop": True, "per_step": 1.0, "count": 4}, "1 per step, 4 per call"),
        ({"in_loop": True, "per_step": 1.5, "count": 1200}, "1.5 per step, 1,200 per call"),
        ({"in_loop": True, "per_step": 0.0, "count": 1, "first_step_only": True}, "first step only"),
        ({"in_loop": True, "per_step": 0.0, "count": 3, "first_step_only": True}, "first step only, 3 times"),
        ({"in_loop": True, "per_step": 0.0, "count": 2}, "2 per call, in some steps only"),
        ({"in_loop": False, "per_step": 0.0, "count": 1}, "once per call"),
        ({"in_loop": False, "per_step": 0.0, "count": 2}, "2 per call"),
        ({"standing": True, "in_loop": False, "per_step": 0.0, "count": 142}, "in every call"),
    ],
)
def test_how_often(fields: dict, shown: str) -> None:
    assert words.how_often(make_finding(**fields)) == shown


def test_cost_tells_unknown_from_nothing_and_carries_its_grade() -> None:
    assert words.cost(make_finding()) == "not measured"
    assert words.cost(make_finding(blocked_ms=2.0, saves_ms=0.0, grade=Grade.MEASURED)) == (
        "blocks the CPU 2 ms a call, saves nothing (measured, saving modelled)"
    )
    assert words.cost(make_finding(blocked_ms=2.0, cost_note="hidden")) == (
        "blocks the CPU 2 ms a call, saving not known (simulated); hidden"
    )


@pytest.mark.parametrize(
    ("value", "shown"), [(12, "12 B"), (1536, "1.5 KiB"), (2**21, "2 MiB"), (8.96e9, "8.34 GiB")]
)
def test_sizes_are_decimal(value: float, shown: str) -> None:
    assert units.size(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(900, "900"), (83_653_863, "83.7 M"), (2_567_463_684, "2.57 B")]
)
def test_parameters(value: int, shown: str) -> None:
    assert words.parameters(value) == shown


def test_age() -> None:
    now = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
    assert words.age("2026-01-02T03:04:00+00:00", now) == "5 s ago"
    assert words.age("2026-01-02T01:04:05", now) == "2 h ago"
    assert words.age("2025-12-30T03:04:05+00:00", now) == "3 d ago"
    assert words.age("2027-01-01T00:00:00+00:00", now) == "0 s ago"
    assert words.age("yesterday", now) == "yesterday"
