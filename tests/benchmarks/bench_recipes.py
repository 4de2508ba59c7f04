"""What the plain fixes of waits cost in Python: CPU time of a scheduler's step with them and without.

python -m tests.benchmarks.bench_recipes
"""

from __future__ import annotations

import copy
import statistics
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
ROUNDS = 100


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
    """CPU time of a step of each, us, the mean over a call. Each step is taken by all of them in turn, many
    times; a tenth of its times are shorter than what counts, which other load on the machine disturbs
    least."""
    sample = torch.randn(1, 4, 8, 8)
    found: list[list[list[float]]] = [[[] for _ in range(2 * STEPS)] for _ in schedulers]
    for n in range(ROUNDS):
        for scheduler in schedulers:
            scheduler.set_timesteps(STEPS)
            scheduler.scale_model_input(sample, scheduler.timesteps[0])
        for n_step in range(len(schedulers[0].timesteps)):
            for which in sorted(range(len(schedulers)), reverse=(n + n_step) % 2 == 1):
                scheduler = schedulers[which]
                t = scheduler.timesteps[n_step]
                begun = time.thread_time()
                scheduler.step(sample, t, sample)
                found[which][n_step].append((time.thread_time() - begun) * 1e6)
    return [statistics.mean(sorted(own)[len(own) // 10] for own in each if own) for each in found]


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
            f"| {name} | {before} | {after} | {lines} | {plain:.0f} | {ours:.0f} | {ours / plain:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
