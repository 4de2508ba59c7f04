"""Clean wall-clock passes: no instrument is on while they run."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator

from diffprof.model.recording import Doubt, Grade, Timing

Clock = Callable[[], float]


COMPILED_WARMUPS = 3
"""Before a compiled pipeline is timed: the first call compiles, the next ones record CUDA graphs."""

MORE_WARMUPS = 3
"""Calls beyond these that compile something, and are not counted either."""

WIDE = 0.1
"""Half the interquartile range by the median: beyond it passes are far from each other."""

BUSY = 0.5
"""Cores that others keep busy, per core: beyond it a call may wait for one."""


def compiled_frames() -> int:
    """Functions that Dynamo has compiled in this process, versions of one counted each."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    return sum(dynamo.counters["frames"].values()) if dynamo is not None else 0


def load_average() -> float | None:
    """Processes that ran or could have, over the last minute; None where the system keeps no count."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def clean_passes(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    *,
    warmups: int = 1,
    passes: int = 3,
    most: int | None = None,
    limit_s: float = math.inf,
    warm: Callable[[], None] = lambda: None,
    clock: Clock = time.perf_counter,
    mode: str = "eager",
    compiles: Callable[[], int] = compiled_frames,
    load: Callable[[], float | None] = load_average,
) -> Timing:
    """Time `passes` calls after `warmups`, each from an idle device until the device is done again.

    A call in which something is compiled counts as one more warm-up, at most MORE_WARMUPS times. most: passes
    to make while they are far from each other. limit_s: time in passes after which no further one is begun;
    one is always made. warm: called between the warm-ups and the first pass that counts. compiles: how often
    this process has compiled; load: busy cores, of all processes.
    """
    for _ in range(warmups):
        call()
    warm()
    seconds: list[float] = []
    more, compiled, own = 0, False, time.process_time()
    while _goes_on(seconds, passes, most or passes, limit_s):
        before = compiles()
        synchronize()
        start = clock()
        call()
        synchronize()
        taken = clock() - start
        if compiles() != before and more < MORE_WARMUPS:
            warm()
            more, own = more + 1, time.process_time()
            continue
        seconds.append(taken)
        compiled = compiled or compiles() != before
    others = _others(load(), (time.process_time() - own) / (sum(seconds) or math.inf))
    return Timing(
        grade=Grade.MEASURED,
        mode=mode,
        seconds=tuple(seconds),
        median=statistics.median(seconds),
        spread=spread(seconds),
        warmups=warmups + more,
        load=others,
        doubts=tuple(_doubts(seconds, others, compiled=compiled)),
    )


def _goes_on(seconds: list[float], passes: int, most: int, limit_s: float) -> bool:
    if not seconds:
        return True
    wanted = most if len(seconds) >= passes and _is_wide(seconds) else passes
    return len(seconds) < wanted and sum(seconds) + seconds[-1] <= limit_s


def _is_wide(seconds: list[float]) -> bool:
    """Whether the passes are far from each other."""
    half = spread(seconds)
    return half is not None and half > WIDE * statistics.median(seconds)


def _others(load: float | None, own: float) -> float | None:
    """Of the busy cores, those that this process did not keep busy itself, per core of the machine."""
    return None if load is None else max(0.0, load - own) / (os.cpu_count() or 1)


def _doubts(seconds: list[float], others: float | None, *, compiled: bool) -> Iterator[Doubt]:
    if len(seconds) == 1:
        yield Doubt.ONE_PASS
    if _is_wide(seconds):
        yield Doubt.SPREAD
    if others is not None and others > BUSY:
        yield Doubt.LOADED
    if compiled:
        yield Doubt.COMPILED


def spread(seconds: list[float]) -> float | None:
    """Half the interquartile range."""
    if len(seconds) < 2:
        return None
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2
