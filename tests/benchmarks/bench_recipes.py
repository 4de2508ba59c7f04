"""What the plain fixes of waits cost in Python: CPU time of a scheduler's step with them and without.

python -m tests.benchmarks.bench_recipes
"""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from diffprof.devices.simulated import place, simulated_gpu
from diffprof.model.fix import Code
from tests.analyzers.syncs.applied import apply, fixes_for
from tests.analyzers.syncs.test_fixes import Run, made

SCHEDULERS = (
    *("DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler", "LCMScheduler", "DeviceSigmas"),
    *("DDPMScheduler", "TCDScheduler", "SASolverScheduler", "UniPCMultistepScheduler"),
)
STEPS = 20
ROUNDS = 80


class _Pipe:
    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler


def codes_of(name: str) -> tuple[Any, dict[str, Code], int, int]:
    """(scheduler, fixes, waits in the loop before, after), from a call of a tiny SDXL."""
    with simulated_gpu() as device:
        case = made(name)
        place(case.pipe, values="known")
        scheduler = copy.deepcopy(case.pipe.scheduler)
        before, report = Run(case, device).call()
        codes = fixes_for(report)
        apply(case.pipe, codes)
        after, again = Run(case, device).call()
        assert all(map(torch.equal, before, after)), f"{name}: the output changed"
        waits = [sum(f.count for f in each.in_loop) for each in (report, again)]
    return scheduler, codes, waits[0], waits[1]


def step_us(schedulers: tuple[Any, ...]) -> list[float]:
    """CPU time of a step of each, us: the fastest of many runs, taken in turn."""
    sample = torch.randn(1, 4, 8, 8)
    found: list[list[float]] = [[] for _ in schedulers]
    for _ in range(ROUNDS):
        for scheduler, own in zip(schedulers, found, strict=True):
            scheduler.set_timesteps(STEPS)
            begun = time.thread_time()
            for t in scheduler.timesteps:
                scheduler.step(sample, t, sample)
            own.append((time.thread_time() - begun) / len(scheduler.timesteps) * 1e6)
    return [min(own) for own in found]


def main() -> None:
    torch.set_num_threads(1)
    print("| scheduler | waits in the loop | with the fix | lines | step, us | with the fix | ratio |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in SCHEDULERS:
        scheduler, codes, before, after = codes_of(name)
        fixed = _Pipe(copy.deepcopy(scheduler))
        apply(fixed, codes)
        plain, ours = step_us((scheduler, fixed.scheduler))
        lines = sum(code.lines for code in codes.values())
        print(
            f"| {name} | {before} | {after} | {lines} | {plain:.0f} | {ours:.0f} | {ours / plain:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
