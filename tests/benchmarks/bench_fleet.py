"""Throughput of reading many traces: `python -m tests.benchmarks.bench_fleet [TRACES]`.

Generated traces of 0.1 to 2 MB of JSON, by one and two processes and, where Ray is installed, by a local Ray
of two workers, of which one is killed on the way. All must give the same rows.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import psutil

from diffprof.fleet.engine import Engine, Processes
from diffprof.fleet.ray_engine import RayCluster
from diffprof.fleet.sources import Source, sources
from diffprof.fleet.store import Store
from diffprof.fleet.traces import import_traces
from diffprof.model.traces import TraceRow
from tests.chrome_trace.generate import generate
from tests.fleet.fleet_traces import loop

PRELOAD = ("diffprof.fleet.traces", "diffprof.analyzers")
SIZES = (100_000, 400_000, 2_000_000)


def made(folder: Path, count: int) -> list[Source]:
    """That many traces: nine in ten of a small loop, the others larger."""
    large = []
    for size in SIZES:
        generate(folder / "large.json", size)
        large.append(gzip.compress((folder / "large.json").read_bytes(), 1))
    (folder / "large.json").unlink()
    for number in range(count):
        path = folder / f"{number:05}.json.gz"
        if number % 10:
            loop(path, read_us=50.0 + number % 97, hour=number)
        else:
            path.write_bytes(large[number // 10 % len(large)])
    return sources([str(folder)])


def timed(name: str, engine: Engine, found: list[Source], folder: Path) -> list[TraceRow]:
    started = time.perf_counter()
    rows = import_traces(found, Store(folder / f"{name}.duckdb"), engine)
    seconds = time.perf_counter() - started
    read = sum(row.took_s or 0.0 for row in rows)
    print(
        f"{name:24} {len(rows) / seconds:7.1f} traces/s  {seconds:6.1f} s  {read:6.1f} s in workers",
        flush=True,
    )
    return [msgspec.structs.replace(row, took_s=None) for row in rows]


def kill_worker(at_least: int) -> None:
    """End one of Ray's workers, of those below this process, once so many are at a task. Ray calls a worker
    by its task, and pads the name; its own agents it calls by what they are."""

    def end() -> None:
        while True:
            below = {p: " ".join(p.cmdline()).strip() for p in psutil.Process().children(recursive=True)}
            busy = [p for p, name in below.items() if re.fullmatch(r"ray::[0-9a-f]{24}", name)]
            if len(busy) >= at_least:
                busy[0].kill()
                print(f"killed {below[busy[0]]}", flush=True)
                return
            time.sleep(0.1)

    threading.Thread(target=end, daemon=True).start()


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "traces")
        folder.mkdir()
        found = made(folder, count)
        size = sum(source.bytes for source in found) / 2**20
        print(f"{count} traces, {size:.0f} MiB zipped")
        one = timed("one process", Processes(1, preload=PRELOAD), found, Path(scratch))
        two = timed("two processes", Processes(2, preload=PRELOAD), found, Path(scratch))
        assert one == two
        if importlib.util.find_spec("ray") is not None:
            assert timed("Ray, two workers", RayCluster(workers=2), found, Path(scratch)) == one
            kill_worker(2)
            assert timed("Ray, one worker killed", RayCluster(workers=2), found, Path(scratch)) == one
        print("the same rows")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
