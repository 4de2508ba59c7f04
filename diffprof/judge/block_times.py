"""The blocks of a pipeline that is made of them: how long each ran, and how often the CPU waited in it."""

from __future__ import annotations

from diffprof.judge.timeline import NOT_BLOCKING, replay
from diffprof.model.recording import BlockRow, Timeline


def block_times(timeline: Timeline) -> tuple[BlockRow, ...]:
    """In the order in which they come first; empty for a pipeline that is not made of blocks."""
    spans = [span for span in timeline.phases if span.block is not None and span.last > span.first]
    if not spans:
        return ()
    run = replay(timeline)
    found: dict[str, tuple[float, float, int]] = {}
    for span in spans:
        events = slice(span.first, span.last)
        elapsed, device, waits = found.get(span.block or "", (0.0, 0.0, 0))
        replayed = run.host_end[span.last - 1] - run.host_start[span.first]
        found[span.block or ""] = (
            elapsed + (replayed if span.host_us is None else span.host_us),
            device + sum(timeline.device_us[events]),
            waits + sum(row != NOT_BLOCKING for row in timeline.sync[events]),
        )
    return tuple(
        BlockRow(name=name, elapsed_ms=elapsed / 1e3, device_ms=device / 1e3, waits=waits)
        for name, (elapsed, device, waits) in found.items()
    )
