"""How many waits plain fixes leave in the loops of the corpus, and that no output changes. Minutes.

python -m tests.benchmarks.bench_no_waits [NAME ...]
"""

from __future__ import annotations

import sys
import time
from collections import Counter

import torch

from diffprof.analyzers.syncs.fixes import RECIPES
from diffprof.corpus import CASES
from diffprof.devices.simulated import place, simulated_gpu
from diffprof.model.fix import Code
from diffprof.model.report import Report
from tests.analyzers.syncs.applied import apply
from tests.analyzers.syncs.test_fixes import Run

left_at: Counter[str] = Counter()


def plain_codes(report: Report) -> dict[str, Code]:
    made = {}
    for recipe in RECIPES:
        own = [f for f in report.in_loop if recipe.fix.key in f.fixes]
        code = recipe.written(report.recording, own) if own else None
        if isinstance(code, Code):
            made[recipe.fix.key] = code
    return made


def waits(report: Report) -> int:
    return sum(row.count for row in report.recording.syncs or () if row.in_loop)


def fixed(name: str) -> tuple[int, int, bool]:
    """(waits before, waits left, whether the output kept its bits)"""
    with simulated_gpu() as device:
        case = CASES[name].build()
        place(case.pipe, values="known")
        run = Run(case, device)
        expected, report = run.call()
        before = waits(report)
        if not before:
            return 0, 0, True
        apply(case.pipe, plain_codes(report))
        got, after = run.call()
        for row in after.recording.syncs or ():
            if row.in_loop:
                left_at[f"{row.site.file}:{row.site.line} {row.kind}"] += row.count
        return before, waits(after), all(map(torch.equal, expected, got))


def main() -> None:
    torch.set_num_threads(1)
    total = left = 0
    begun = time.process_time()
    for name in sys.argv[1:] or CASES:
        try:
            before, after, same = fixed(name)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:150]}", flush=True)
            continue
        total, left = total + before, left + after
        if before:
            print(f"{name}: {before} -> {after}{'' if same else ', THE OUTPUT CHANGED'}", flush=True)
    print(f"{total} waits in the loops of {len(sys.argv[1:] or CASES)} pipelines, {left} left")
    print(f"{time.process_time() - begun:.0f} s of CPU")
    for place_, count in left_at.most_common():
        print(f"  {count} {place_}")


if __name__ == "__main__":
    main()
