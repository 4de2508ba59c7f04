"""What `diffprof.watch(pipe, every=100)` costs a pipeline on the CPU: CPU time of calls, watched and not.

    python -m tests.benchmarks.bench_watch [PAIRS]

A pair is a hundred calls without and a hundred with, in turns: what the machine does besides is in both.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

import diffprof
from diffprof.live.requests import Request

CALLS = 100
STEPS = 4


def seconds(pipe: object) -> float:
    """CPU time of the calls."""
    before = time.process_time()
    for _ in range(CALLS):
        pipe(num_inference_steps=STEPS)
    return time.process_time() - before


def main(pairs: int = 12) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "guard/sample"))
    import painting

    torch.set_num_threads(1)
    pipe = painting.make_painter()
    seconds(pipe)
    plain, watched, told = [], [], []

    def with_watch() -> float:
        with diffprof.watch(pipe, every=CALLS, callback=told.append):
            return seconds(pipe)

    for number in range(pairs):
        for watch in (number % 2, 1 - number % 2):
            (watched if watch else plain).append(with_watch() if watch else seconds(pipe))
    one = statistics.median(plain) / CALLS
    more = statistics.median(b - a for a, b in zip(plain, watched, strict=True)) / CALLS
    print(
        f"a call of {STEPS} steps: {one * 1e3:.3f} ms of CPU; watched {more * 1e6:+.1f} us, {more / one:+.2%}"
    )
    print(
        f"spread of the pairs: {statistics.stdev(b / a - 1 for a, b in zip(plain, watched, strict=True)):.2%}"
    )
    print(f"by the wrappers alone: {_wrappers() * 1e6:.1f} us a call, {_wrappers() / one:.2%}")
    sampled: Request = next(each for each in told if each.stages)
    print(f"a sampled call has {len(sampled.stages)} stages")


def _wrappers() -> float:
    """Seconds that a call of nothing takes more when it is watched, with as many steps."""

    class Scheduler:
        def set_timesteps(self) -> None: ...

        def step(self) -> None: ...

    class Pipe:
        def __init__(self) -> None:
            self.components = {"scheduler": Scheduler()}
            self.scheduler = self.components["scheduler"]

        def __call__(self) -> None:
            self.scheduler.set_timesteps()
            for _ in range(STEPS):
                self.scheduler.step()

    def cost(pipe: Pipe) -> float:
        before = time.process_time()
        for _ in range(20_000):
            pipe()
        return (time.process_time() - before) / 20_000

    pipe = Pipe()
    plain = cost(pipe)
    with diffprof.watch(pipe, every=CALLS):
        return cost(pipe) - plain


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
