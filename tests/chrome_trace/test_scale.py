"""Long names, many threads and streams, dense traces: time in proportion to the trace."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from diffprof.chrome_trace.intervals import spans
from diffprof.chrome_trace.nesting import latest
from diffprof.chrome_trace.reader import NAME_LIMIT, read_trace, short_text
from diffprof.scanning.importing import record_trace
from tests.chrome_trace.traces import Event, call, frame, kernel, launch, op, write


def test_of_a_long_name_the_beginning_is_kept_and_two_stay_apart(tmp_path: Path) -> None:
    long = "gemm<" + "7, " * NAME_LIMIT
    events = [
        *launch(1, 5, 9, 10),
        kernel(long + "a>", 30, 5),
        kernel(long + "b>", 40, 5),
        frame(f"/{long}.py(3): f", 0, 9),
    ]
    trace = read_trace(write(tmp_path / "t.json", events))
    names = {trace.name(trace.work, row) for row in range(len(trace.work))}
    assert len(names) == 3
    assert max(map(len, trace.names)) < NAME_LIMIT + 50
    assert short_text("k" * NAME_LIMIT) == "k" * NAME_LIMIT
    (first,) = {name for name in names if name.startswith("gemm") and name in (short_text(long + "a>"),)}
    assert f"({len(long) + 2:,} characters" in first


def threads(count: int) -> list[Event]:
    """Each thread launches once, on a stream of its own, and waits for it."""
    found: list[Event] = []
    for n in range(count):
        at, tid = 1000 + 100 * n, 10_000 + n
        found += [
            {**op("aten::mm", at, 90), "tid": tid},
            call("cudaLaunchKernel", at + 1, 3, 2 * n, tid=tid),
            kernel("k", at + 5, 60, 2 * n, stream=100 + n),
            call("cudaStreamSynchronize", at + 6, 60, 2 * n + 1, tid=tid),
        ]
    return found


class _Counted:
    """How many array elements pass through the functions that every analysis goes through."""

    def __init__(self) -> None:
        self.elements = 0

    def __call__(self, function):  # type: ignore[no-untyped-def]
        def counting(*args):  # type: ignore[no-untyped-def]
            self.elements += sum(len(arg) for arg in args if isinstance(arg, np.ndarray))
            return function(*args)

        return counting


def test_twice_the_threads_take_twice_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elements = []
    for count in (100, 200):
        counted = _Counted()
        with monkeypatch.context() as patched:
            patched.setattr("diffprof.chrome_trace.intervals.spans", counted(spans))
            patched.setattr("diffprof.chrome_trace.nesting.latest", counted(latest))
            recording = record_trace(write(tmp_path / f"{count}.json", threads(count)))
        assert sum(row.blocked_us or 0.0 for row in recording.syncs or ()) == 60 * count
        elements.append(counted.elements)
    assert elements[0] > 0
    assert elements[1] < 2.2 * elements[0]


KERNEL = (
    '{{"ph":"X","cat":"kernel","name":"k","pid":0,"tid":7,"ts":{0},"dur":1,"args":{{"correlation":{0}}}}}'
)
LAUNCH = (
    KERNEL.replace('"kernel"', '"cuda_runtime"')
    .replace('"k"', '"cudaLaunchKernel"')
    .replace('"pid":0', '"pid":1')
)


def dense(path: Path, count: int, *lines: str) -> Path:
    """So many events of these forms and nothing else, each in as few bytes as there can be."""
    each = (line.format(2 * n) for n in range(count // len(lines)) for line in lines)
    path.write_text('{"traceEvents":[' + ",".join(each) + "]}")
    return path


def peak_bytes(path: Path) -> int:
    tracemalloc.start()
    record_trace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


BYTES_AN_EVENT = 600
"""What README.md promises at most, beside what the process has anyway."""


@pytest.mark.slow
@pytest.mark.parametrize("lines", [(KERNEL,), (LAUNCH, KERNEL)], ids=["kernels", "launches"])
def test_a_dense_trace_stays_below_its_bound(tmp_path: Path, lines: tuple[str, ...]) -> None:
    peaks = [peak_bytes(dense(tmp_path / f"{count}.json", count, *lines)) for count in (50_000, 90_000)]
    assert peaks[1] - peaks[0] < 40_000 * BYTES_AN_EVENT


@pytest.mark.slow
def test_two_million_kernels_stay_below_it_too(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import resource, sys\n"
        "from diffprof.scanning.importing import record_trace\n"
        "record_trace(sys.argv[1])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    path = dense(tmp_path / "dense.json", 2_000_000, KERNEL)
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 100e6 + 2_000_000 * BYTES_AN_EVENT
