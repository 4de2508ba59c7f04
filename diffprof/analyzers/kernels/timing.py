"""Clean wall-clock passes: no instrument is on while they run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable

from diffprof.model.recording import Grade, Timing

Clock = Callable[[], float]


def clean_passes(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    *,
    warmups: int = 1,
    passes: int = 3,
    limit_s: float = math.inf,
    warm: Callable[[], None] = lambda: None,
    clock: Clock = time.perf_counter,
    mode: str = "eager",
) -> Timing:
    """Time `passes` calls after `warmups`, each from an idle device until the device is done again.

    limit_s: time in passes after which no further one is begun; one is always made. warm: called once,
    between the warm-ups and the first pass.
    """
    for _ in range(warmups):
        call()
    warm()
    seconds: list[float] = []
    while len(seconds) < passes and (not seconds or sum(seconds) + seconds[-1] <= limit_s):
        synchronize()
        start = clock()
        call()
        synchronize()
        seconds.append(clock() - start)
    return Timing(
        grade=Grade.MEASURED,
        mode=mode,
        seconds=tuple(seconds),
        median=statistics.median(seconds),
        spread=spread(seconds),
    )


def spread(seconds: list[float]) -> float | None:
    """Half the interquartile range."""
    if len(seconds) < 2:
        return None
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2
