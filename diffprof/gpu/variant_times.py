"""How long launches take that a CPU issues and a device runs in order, for many variants of one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from diffprof.judge import blocks
from diffprof.judge.blocks import Block, cut

from .assembly import Assembly, EventColumns


class VariantTimes:
    """Lengths of calls that one assembly costs. What a stretch comes to is kept."""

    def __init__(self, assembly: Assembly) -> None:
        spec = assembly.model.spec
        self._limit = assembly.pending_limit
        self._op_us = assembly.queue.host.op_us
        self._host_and_device = blocks.HostAndDevice(
            spec.launch_latency_us, spec.sync_latency_us, self._limit
        )
        self._known: dict[tuple[int, frozenset[int], frozenset[int]], tuple[EventColumns, list[Block]]] = {}

    def total_us(self, parts: Iterable[EventColumns], waits: frozenset[int], reads: frozenset[int]) -> float:
        """From the first launch until CPU and device are done, in microseconds. waits: rows that nobody waits
        for; reads: rows whose events are left out."""
        return self._host_and_device.run(self._blocks(parts, waits, reads))

    def _blocks(
        self, parts: Iterable[EventColumns], waits: frozenset[int], reads: frozenset[int]
    ) -> Iterator[Block]:
        for columns in parts:
            key = (id(columns), waits, reads)
            if key not in self._known:  # the columns are kept, so that their id stays theirs
                rows = frozenset(columns.sync.tolist())
                own = (id(columns), waits & rows, reads & rows)
                if own not in self._known:
                    self._known[own] = (columns, self._cut(columns, *own[1:]))
                self._known[key] = self._known[own]
            yield from self._known[key][1]

    def _cut(self, columns: EventColumns, waits: frozenset[int], reads: frozenset[int]) -> list[Block]:
        host, device = np.array(columns.host), np.array(columns.device)
        sync = np.array(columns.sync, dtype=np.int64)
        gone = np.isin(sync, list(reads))
        host[gone] = np.maximum(0.0, host[gone] - self._op_us)
        device[gone] = 0.0
        sync[np.isin(sync, [*waits, *reads])] = -1
        return cut(host, device, sync, self._limit)
