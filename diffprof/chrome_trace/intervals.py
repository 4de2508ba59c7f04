"""Algebra of half-open intervals on a line, vectorised.

A set of intervals is a float array of shape (n, 2): sorted, disjoint, not touching, none empty. Every
function takes any (n, 2) array, sorted or not, and returns such a set.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

Intervals: TypeAlias = np.ndarray
"""ndarray, shape (n, 2), float64: start and end of each interval."""

EMPTY = np.empty((0, 2))


def spans(start: np.ndarray, duration: np.ndarray) -> Intervals:
    """Intervals [start, start + duration) as they come; not yet a set."""
    start = np.asarray(start, dtype=float)
    return np.stack([start, start + np.asarray(duration, dtype=float)], axis=1)


def union(intervals: Intervals) -> Intervals:
    """The points in any of the intervals."""
    given = np.asarray(intervals, dtype=float).reshape(-1, 2)
    given = given[given[:, 1] > given[:, 0]]
    if not len(given):
        return EMPTY
    given = given[np.argsort(given[:, 0], kind="stable")]
    reach = np.maximum.accumulate(given[:, 1])
    first = np.concatenate([[True], given[1:, 0] > reach[:-1]])
    last = np.concatenate([np.flatnonzero(first)[1:] - 1, [len(given) - 1]])
    return np.stack([given[first, 0], reach[last]], axis=1)


def total(intervals: Intervals) -> float:
    """Length of the union."""
    merged = union(intervals)
    return float((merged[:, 1] - merged[:, 0]).sum())


def intersection(left: Intervals, right: Intervals) -> Intervals:
    """The points in both."""
    a, b = union(left), union(right)
    if not len(a) or not len(b):
        return EMPTY
    first = np.searchsorted(b[:, 1], a[:, 0], side="right")
    last = np.searchsorted(b[:, 0], a[:, 1], side="left")
    counts = np.maximum(last - first, 0)
    of_a: np.ndarray = np.repeat(np.arange(len(a)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    of_b = np.repeat(first, counts) + within
    return union(np.stack([np.maximum(a[of_a, 0], b[of_b, 0]), np.minimum(a[of_a, 1], b[of_b, 1])], axis=1))


def complement(intervals: Intervals, start: float, end: float) -> Intervals:
    """The points of [start, end) in none of the intervals."""
    covered = intersection(intervals, np.array([[start, end]]))
    edges = np.concatenate([[start], covered.reshape(-1), [end]])
    return union(edges.reshape(-1, 2))


def covered(intervals: Intervals, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """For each window [start, end): how much of it the union covers. Arrays of equal length."""
    merged = union(intervals)
    start, end = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    if not len(merged):
        return np.zeros(np.broadcast(start, end).shape)
    before = np.concatenate([[0.0], np.cumsum(merged[:, 1] - merged[:, 0])])

    def up_to(at: np.ndarray) -> np.ndarray:
        index = np.searchsorted(merged[:, 0], at, side="right")
        inside = np.clip(at - merged[np.maximum(index - 1, 0), 0], 0.0, None)
        length = before[index] - before[np.maximum(index - 1, 0)]
        return before[np.maximum(index - 1, 0)] + np.where(index > 0, np.minimum(inside, length), 0.0)

    return np.where(end > start, up_to(end) - up_to(start), 0.0)
