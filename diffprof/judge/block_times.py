"""The blocks of a pipeline that is made of them: how long each ran, and how often the host waited in it."""

from __future__ import annotations

from typing import NamedTuple

from diffprof.judge.timeline import NOT_BLOCKING, replay
from diffprof.model.recording import Timeline


class BlockTime(NamedTuple):
    """One block over the whole call, without those in it. elapsed_ms: of the host, waits included."""

    name: str
    elapsed_ms: float
    device_ms: float
    waits: int


def block_times(timeline: Timeline) -> tuple[BlockTime, ...]:
    """In the order in which they come first; empty for a pipeline that is not made of blocks."""
    spans = [span for span in timeline.phases if span.block is not None and span.last > span.first]
    if not spans:
        return ()
    run = replay(timeline)
    found: dict[str, BlockTime] = {}
    for span in spans:
        events = slice(span.first, span.last)
        name = span.block or ""
        before = found.get(name, BlockTime(name, 0.0, 0.0, 0))
        found[name] = BlockTime(
            name,
            before.elapsed_ms + (run.host_end[span.last - 1] - run.host_start[span.first]) / 1e3,
            before.device_ms + sum(timeline.device_us[events]) / 1e3,
            before.waits + sum(row != NOT_BLOCKING for row in timeline.sync[events]),
        )
    return tuple(found.values())
