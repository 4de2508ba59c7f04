"""Clean wall-clock passes: no instrument is on while they run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

from diffprof.model.recording import Grade, Timing

Clock = Callable[[], float]


def synchronizer(device: Any) -> Callable[[], None]:
    """Waits until a torch device is done; does nothing on the CPU."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def clean_passes(
    call: Callable[[], object],
    synchronize: Callable[[], None],
    *,
    warmups: int = 1,
    passes: int = 3,
    limit_s: float = math.inf,
    clock: Clock = time.perf_counter,
    mode: str = "eager",
) -> Timing:
    """Time `passes` calls after `warmups`, each from an idle device until the device is done again.

    limit_s: time in passes after which no further one is begun; one is always made.
    """
    for _ in range(warmups):
        call()
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
