"""Who encloses whom: parents of nested spans on a thread, and the innermost span at an instant.

Both are found with pointer jumping on arrays, in a number of rounds that grows with the logarithm of the
number of spans, so a million Python frames take a fraction of a second.
"""

from __future__ import annotations

import numpy as np


def latest(start: np.ndarray, track: np.ndarray, ts: np.ndarray, on: np.ndarray) -> np.ndarray:
    """For each instant ts on track `on`: the last row of its track that starts no later, or -1. Rows are
    sorted by start within their tracks."""
    count = len(start)
    if not count:
        return np.full(len(ts), -1)
    key = np.concatenate([track, on])
    order = np.lexsort((np.arange(len(key)), np.concatenate([start, ts]), key))
    is_row = order < count
    rows = np.maximum.accumulate(np.where(is_row, np.arange(len(order)), -1))
    found = np.where(rows >= 0, order[np.maximum(rows, 0)], -1)
    found[(found >= 0) & (key[np.maximum(found, 0)] != key[order])] = -1
    result: np.ndarray = np.empty(len(key), np.int64)
    result[order] = found
    return result[count:]


class Nest:
    """Spans of several tracks, nested by time. Rows keep the caller's numbering; -1 stands for none."""

    def __init__(self, ts: np.ndarray, dur: np.ndarray, track: np.ndarray) -> None:
        """ts, dur: float arrays, microseconds. track: int array; spans of different tracks never enclose."""
        order = np.lexsort((-np.asarray(dur), ts, track))
        self._order = order
        self._track = np.asarray(track)[order]
        self._start = np.asarray(ts, dtype=float)[order]
        self._end = self._start + np.asarray(dur, dtype=float)[order]
        count = len(order)
        # Every span between a candidate and the span itself has ended before the span starts; jumping to the
        # candidate's candidate keeps that true.
        up = np.arange(-1, count - 1)
        live = np.flatnonzero(up >= 0)
        while len(live):
            at = up[live]
            same = self._track[at] == self._track[live]
            open_ = same & (self._end[at] > self._start[live])
            up[live[~same]] = -1
            live = live[same & ~open_]
            up[live] = up[up[live]]
            live = live[up[live] >= 0]
        self._up = up

    @property
    def parent(self) -> np.ndarray:
        """For each row, the row that encloses it, or -1."""
        result = np.full(len(self._order), -1)
        has = self._up >= 0
        result[self._order[has]] = self._order[self._up[has]]
        return result

    def _at(self, ts: np.ndarray, track: np.ndarray) -> np.ndarray:
        ts, track = np.asarray(ts, dtype=float), np.asarray(track)
        found = latest(self._start, self._track, ts, track)
        live = np.flatnonzero(found >= 0)
        while len(live):
            live = live[self._end[found[live]] <= ts[live]]
            found[live] = self._up[found[live]]
            live = live[found[live] >= 0]
        return found

    def at(self, ts: np.ndarray, track: np.ndarray) -> np.ndarray:
        """The innermost row open at each instant on its track, or -1."""
        found = self._at(ts, track)
        return np.where(found >= 0, self._order[np.maximum(found, 0)], -1) if len(self._order) else found

    def nearest(self, wanted: np.ndarray) -> np.ndarray:
        """For each row, itself if wanted (bool array), else the nearest enclosing row that is, or -1."""
        mask = np.asarray(wanted, dtype=bool)[self._order]
        count = len(mask)
        jump = np.where(mask, np.arange(count), self._up)
        while True:
            known = jump >= 0
            target = np.where(known, jump[np.maximum(jump, 0)], -1)
            if np.array_equal(target, jump):
                break
            jump = target
        result = np.full(count, -1)
        has = jump >= 0
        result[self._order[has]] = self._order[jump[has]]
        return result

    def outermost(self) -> np.ndarray:
        """For each row, the row at the bottom of its stack (itself if nothing encloses it)."""
        return self.nearest(self.parent < 0)

    def chain(self, row: int) -> list[int]:
        """The row and all that enclose it, innermost first."""
        if row < 0:
            return []
        if not hasattr(self, "_place"):
            place: np.ndarray = np.empty(len(self._order), dtype=np.int64)
            place[self._order] = np.arange(len(self._order))
            self._place = place
        at = int(self._place[row])
        found = []
        while at >= 0:
            found.append(int(self._order[at]))
            at = int(self._up[at])
        return found
