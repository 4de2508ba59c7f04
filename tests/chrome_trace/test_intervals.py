from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffprof.chrome_trace.intervals import complement, covered, intersection, total, union

END = 24
points = st.integers(0, END)
sets = st.lists(st.tuples(points, points).map(sorted), max_size=8).map(
    lambda v: np.array(v, float).reshape(-1, 2)
)


def cells(intervals: np.ndarray) -> set[int]:
    """Unit cells covered: with whole-number ends, a set of intervals is the set of its cells."""
    return {cell for low, high in intervals.tolist() for cell in range(int(low), int(high))}


def is_canonical(intervals: np.ndarray) -> bool:
    flat = intervals.reshape(-1)
    return bool((np.diff(flat) > 0).all())


@given(sets)
def test_union_covers_the_same_and_is_sorted_and_disjoint(a: np.ndarray) -> None:
    assert cells(union(a)) == cells(a)
    assert is_canonical(union(a))


@given(sets)
def test_total_is_the_measure(a: np.ndarray) -> None:
    assert total(a) == len(cells(a))


@given(sets, sets)
def test_intersection_is_the_common_part(a: np.ndarray, b: np.ndarray) -> None:
    assert cells(intersection(a, b)) == cells(a) & cells(b)
    assert is_canonical(intersection(a, b))


@given(sets, st.tuples(points, points).map(sorted))
def test_complement_and_set_share_out_the_window(a: np.ndarray, window: list[int]) -> None:
    low, high = window
    rest = complement(a, low, high)
    assert cells(rest) == set(range(low, high)) - cells(a)
    assert is_canonical(rest)


@pytest.mark.slow
@given(sets, sets)
def test_inclusion_and_exclusion(a: np.ndarray, b: np.ndarray) -> None:
    assert total(np.concatenate([a, b])) == total(a) + total(b) - total(intersection(a, b))


@given(sets, st.lists(st.tuples(points, points).map(sorted), max_size=6))
def test_covered_measures_each_window(a: np.ndarray, windows: list[list[int]]) -> None:
    found = covered(a, [w[0] for w in windows], [w[1] for w in windows])
    assert found.tolist() == [len(cells(a) & set(range(*w))) for w in windows]


def test_touching_intervals_become_one() -> None:
    assert union(np.array([[3.0, 5.0], [1.0, 3.0], [7.0, 7.0]])).tolist() == [[1.0, 5.0]]


@pytest.mark.parametrize("empty", [np.empty((0, 2)), np.array([[2.0, 2.0]])])
def test_nothing(empty: np.ndarray) -> None:
    assert total(empty) == 0
    assert complement(empty, 1, 4).tolist() == [[1.0, 4.0]]
