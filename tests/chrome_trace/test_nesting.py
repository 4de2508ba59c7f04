from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffprof.chrome_trace.nesting import Nest


@st.composite
def nested(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    """(start, duration, track), properly nested on each track, in any order."""
    rows: list[tuple[int, int, int]] = []

    def fill(low: int, high: int, track: int, depth: int) -> None:
        at = low
        while at < high - 1 and depth < 5 and draw(st.booleans()):
            start = draw(st.integers(at, high - 2))
            end = draw(st.integers(start + 2, high))
            rows.append((start, end - start, track))
            fill(start + 1, end - 1, track, depth + 1)
            at = end
        return

    for track in range(draw(st.integers(1, 2))):
        fill(0, 40, track, 0)
    return draw(st.permutations(rows))


def enclosing(rows: list[tuple[int, int, int]], at: int, track: int, *, but: int = -1) -> list[int]:
    """Rows open at a moment, innermost first, the slow way."""
    found = [
        i
        for i, (start, length, own) in enumerate(rows)
        if own == track and start <= at < start + length and i != but
    ]
    return sorted(found, key=lambda i: rows[i][1])


def nest(rows: list[tuple[int, int, int]]) -> Nest:
    columns = np.array(rows, float).reshape(-1, 3)
    return Nest(columns[:, 0], columns[:, 1], columns[:, 2].astype(int))


@given(nested())
def test_parents_are_the_innermost_enclosing(rows: list[tuple[int, int, int]]) -> None:
    parents = nest(rows).parent.tolist()
    for i, (start, length, track) in enumerate(rows):
        around = [j for j in enclosing(rows, start, track, but=i) if rows[j][1] > length]
        assert parents[i] == (around[0] if around else -1)


@given(nested(), st.lists(st.tuples(st.integers(-1, 41), st.integers(0, 2)), max_size=12))
def test_the_innermost_at_a_moment_and_its_chain(
    rows: list[tuple[int, int, int]], moments: list[tuple[int, int]]
) -> None:
    tree = nest(rows)
    found = tree.at([m[0] for m in moments], [m[1] for m in moments]).tolist()
    for (at, track), row in zip(moments, found, strict=True):
        slow = enclosing(rows, at, track)
        assert tree.chain(row) == slow


@given(nested(), st.integers(1, 5))
def test_nearest_wanted(rows: list[tuple[int, int, int]], every: int) -> None:
    tree = nest(rows)
    wanted = np.arange(len(rows)) % every == 0
    for i, found in enumerate(tree.nearest(wanted).tolist()):
        chain = [row for row in tree.chain(i) if wanted[row]]
        assert found == (chain[0] if chain else -1)


def test_a_hundred_thousand_siblings_and_a_deep_stack() -> None:
    flat = Nest(np.arange(100_000) * 2.0, np.ones(100_000), np.zeros(100_000, int))
    assert (flat.parent == -1).all()
    deep = Nest(np.arange(500.0), 2000.0 - 2 * np.arange(500.0), np.zeros(500, int))
    assert deep.parent.tolist() == list(range(-1, 499))
    assert int(deep.at([1999.5], [0])[0]) == 0
