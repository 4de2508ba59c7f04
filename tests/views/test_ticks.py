from __future__ import annotations

import pytest

from diffprof.views.timeline_bands import ticks


@pytest.mark.parametrize(
    ("span_us", "expected"),
    [
        (465_000.0, [0, 100_000, 200_000, 300_000, 400_000]),
        (103_200.0, [0, 20_000, 40_000, 60_000, 80_000, 100_000]),
        (101_000.0, [0, 20_000, 40_000, 60_000, 80_000]),
        (7.0, [0, 2, 4, 6]),
        (0.0, [0]),
    ],
)
def test_ticks_are_round_and_keep_clear_of_the_end(span_us: float, expected: list[float]) -> None:
    assert ticks(span_us) == pytest.approx(expected)
