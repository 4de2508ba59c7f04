"""CPU seconds behind the figures of the page on fleets: `python -m tests.benchmarks.bench_fleet_rates`.

One thread in one process, imports apart: runs of pipelines with all their prices, and traces of three sizes
with their replay and findings. `--survey NAME...` times rows of the survey, captures in children included.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffprof.fleet import worker_imports  # noqa: F401
from diffprof.fleet.grid import Grid, cases
from diffprof.fleet.sources import sources
from diffprof.fleet.surveying import survey_row
from diffprof.fleet.sweeping import run_case
from diffprof.fleet.traces import trace_row
from diffprof.gpu.specs import spec_names
from tests.chrome_trace.generate import generate
from tests.fleet.fleet_traces import loop

GRID = Grid(
    targets=("sdxl", "flux", "wan"), mode=("eager", "compiled", "int8"), batch=(1, 2, 4, 8), device=("all",)
)
SIZES = (2_000_000, 20_000_000)
TIMES = 20


def cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def timed(name: str, times: int = 1) -> Iterator[None]:
    started = cpu_seconds()
    yield
    print(f"{(cpu_seconds() - started) / times:8.3f} CPU s  {name}", flush=True)


def runs() -> None:
    with timed("the sweep of them all"):
        for case in cases(GRID, spec_names()):
            with timed(f"{case}, {len(case.devices) * len(case.modes)} prices"):
                run_case(case)


def traces(folder: Path) -> None:
    paths = [loop(folder / "loop.json.gz")]
    for size in SIZES:
        paths.append(folder / f"{size}.json")
        generate(paths[-1], size)
    for path in paths:
        (source,) = sources([str(path)])
        trace_row(source)  # what the first one imports
        with timed(f"a trace of {source.bytes / 1e3:,.1f} kB, {path.suffix}", TIMES):
            for _ in range(TIMES):
                row = trace_row(source)
        print(f"{'':16}{row.events:,} events", flush=True)


def survey(names: list[str]) -> None:
    started = time.perf_counter()
    with timed("a row, on average", len(names)):
        for name in names:
            with timed(name):
                survey_row(name, breaks=True)
    print(f"{time.perf_counter() - started:.0f} s of wall time")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--survey"]:
        survey(sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory() as scratch:
            traces(Path(scratch))
        runs()
