"""CPU time of each view over 5,000 findings. Run: python -m tests.benchmarks.bench_views"""

from __future__ import annotations

import time

from diffprof.views import FORMATS, render
from tests import builders


def main() -> None:
    report = builders.many(5_000)
    print(f"{'format':<10} {'ms':>6} {'MB':>6}")
    for form in FORMATS:
        render(builders.empty(), form)
        start = time.process_time()
        text = render(report, form)
        print(f"{form:<10} {(time.process_time() - start) * 1e3:>6.0f} {len(text) / 1e6:>6.1f}")


if __name__ == "__main__":
    main()
