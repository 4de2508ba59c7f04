"""How long launches take that a host issues and a device runs in order, for many variants of one call.

The same recursion as `diffprof.judge.timeline.total_us`, in blocks: between two waits every time is a
maximum or a sum of earlier ones, so a running sum and a running maximum give all of them at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .assembly import Assembly, Columns

Times: TypeAlias = NDArray[np.float64]


class _Block(NamedTuple):
    """Launches between two waits, no more of them than a stream holds.

    host: time of the host since the block's begin until each is issued; device: device time until each has
    run. rest: host time after the last one. waits: whether the host waits at the end.
    """

    host: Times
    device: Times
    rest: float
    waits: bool


class Lanes:
    """Lengths of calls that one assembly costs. What a stretch comes to is kept."""

    def __init__(self, assembly: Assembly) -> None:
        self._latency = assembly.model.spec.launch_latency_us
        self._settle = assembly.model.spec.sync_latency_us
        self._limit = assembly.pending_limit
        self._known: dict[tuple[int, frozenset[int], frozenset[int]], tuple[Columns, list[_Block]]] = {}

    def total_us(self, parts: Iterable[Columns], waits: frozenset[int], reads: frozenset[int]) -> float:
        """From the first launch until both lanes are done. waits: rows that nobody waits for; reads: rows
        whose events are left out."""
        now = free = 0.0
        ends: Times = np.full(self._limit if self._limit < 1 << 16 else 0, -np.inf)
        for columns in parts:
            for block in self._blocks(columns, waits, reads):
                count = len(block.host)
                if count:
                    issued = np.full(count, now)
                    if len(ends):
                        issued = np.maximum.accumulate(np.maximum(ends[:count] - block.host, now))
                    issued += block.host
                    before = np.concatenate(([0.0], block.device[:-1]))
                    done = np.maximum.accumulate(np.maximum(issued + self._latency - before, free))
                    done += block.device
                    now, free = float(issued[-1]), float(done[-1])
                    if len(ends):
                        ends = np.concatenate((ends[count:], done))
                now += block.rest
                if block.waits:
                    now = max(now, free) + self._settle
        return max(now, free)

    def _blocks(self, columns: Columns, waits: frozenset[int], reads: frozenset[int]) -> list[_Block]:
        key = (id(columns), waits, reads)
        found = self._known.get(key)
        if found is None:  # the columns are kept, so that their id stays theirs
            found = self._known[key] = (columns, self._cut(columns, waits, reads))
        return found[1]

    def _cut(self, columns: Columns, waits: frozenset[int], reads: frozenset[int]) -> list[_Block]:
        host, device = np.array(columns.host), np.array(columns.device)
        sync = np.array(columns.sync, dtype=np.int64)
        gone = np.isin(sync, list(reads))
        host[gone] = device[gone] = 0.0
        waiting = (sync != -1) & ~np.isin(sync, [*waits, *reads])
        blocks = []
        at = 0
        for end in [*(np.flatnonzero(waiting) + 1).tolist(), len(host)]:
            while at < end:
                launches = np.flatnonzero(device[at:end] > 0.0)
                whole = len(launches) <= self._limit
                until = end if whole else at + int(launches[self._limit - 1]) + 1
                places = launches[: self._limit]
                issued, ran = np.cumsum(host[at:until]), np.cumsum(device[at:until])
                rest = float(issued[-1] - (issued[places[-1]] if len(places) else 0.0))
                waits_here = whole and bool(waiting[end - 1])
                blocks.append(_Block(issued[places], ran[places], rest, waits_here))
                at = until
        return blocks
