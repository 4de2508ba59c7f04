"""What more denoising steps cost a scan: CPU seconds of few and of many, imports apart, in one run.

python -m tests.benchmarks.bench_steps
"""

from __future__ import annotations

import time

from diffprof.scanning.scan import scan_target
from diffprof.targets import Options

CASES = (("sdxl", 3, 30), ("flux", 3, 28), ("wan2.1-t2v-14b", 3, 50))
REPEATS = 3


def seconds(name: str, steps: int) -> float:
    """The least CPU time of several scans."""
    found = []
    for _ in range(REPEATS):
        before = time.process_time()
        scan_target(name, device="sim:h100", options=Options(steps=steps))
        found.append(time.process_time() - before)
    return min(found)


def main() -> None:
    for name, few, many in CASES:
        scan_target(name, device="sim:h100", options=Options(steps=1))
        short, long = seconds(name, few), seconds(name, many)
        print(f"{name}: {few} steps {short:.2f} s, {many} steps {long:.2f} s, ratio {long / short:.2f}")


if __name__ == "__main__":
    main()
