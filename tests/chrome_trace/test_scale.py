"""Long names, many threads and streams, dense traces: time in proportion to the trace."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffprof.chrome_trace.intervals import spans
from diffprof.chrome_trace.nesting import latest
from diffprof.chrome_trace.reader import NAME_LIMIT, read_trace, short_text
from diffprof.chrome_trace.stream import TraceStream
from diffprof.scanning.importing import record_trace
from tests.chrome_trace.traces import HOST, Event, call, frame, kernel, launch, op, write


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


def streams(count: int) -> list[Event]:
    """One thread, which launches on that many streams and waits for each."""
    return [{**event, "tid": HOST} if event["pid"] == HOST else event for event in threads(count)]


def processes(count: int) -> list[Event]:
    """As `threads`, each in a process of its own."""
    return [{**event, "pid": event["tid"]} if event["pid"] == HOST else event for event in threads(count)]


class _Counted:
    """How many array elements pass through the functions that every analysis goes through."""

    def __init__(self) -> None:
        self.elements = 0

    def __call__(self, function):  # type: ignore[no-untyped-def]
        def counting(*args):  # type: ignore[no-untyped-def]
            self.elements += sum(len(arg) for arg in args if isinstance(arg, np.ndarray))
            return function(*args)

        return counting


@pytest.mark.parametrize("tracks", [threads, streams, processes])
def test_twice_the_tracks_take_twice_the_work(
    tracks: Callable[[int], list[Event]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elements = []
    for count in (100, 200):
        counted = _Counted()
        with monkeypatch.context() as patched:
            patched.setattr("diffprof.chrome_trace.intervals.spans", counted(spans))
            patched.setattr("diffprof.chrome_trace.nesting.latest", counted(latest))
            recording = record_trace(write(tmp_path / f"{count}.json", tracks(count)))
        assert sum(row.blocked_us or 0.0 for row in recording.syncs or ()) == 60 * count
        elements.append(counted.elements)
    assert elements[0] > 0
    assert elements[1] < 2.2 * elements[0]


@pytest.mark.nightly
@pytest.mark.parametrize("tracks", [threads, streams])
def test_twenty_thousand_tracks_take_time_in_proportion(
    tracks: Callable[[int], list[Event]], tmp_path: Path
) -> None:
    few, many = (write(tmp_path / f"{count}.json", tracks(count)) for count in (2_500, 20_000))
    assert cpu_seconds(many) < 2 * 8 * cpu_seconds(few)


def cpu_seconds(path: Path) -> float:
    begun = time.process_time()
    record_trace(path)
    return time.process_time() - begun


def named(path: Path, size: int, piece: str) -> Path:
    """A trace with names of so many characters."""
    name = piece * (size // len(piece))
    here = frame(f"/{name}.py(3): f", 60, 9)
    return write(path, [*launch(1, 5, 9, 10), kernel(name, 30, 5), op(name, 50, 5), here])


@pytest.mark.parametrize("piece", ["gemm<7, ", "::", "{},{"])
def test_a_name_that_is_longer_than_many_chunks_is_read_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: str
) -> None:
    path = named(tmp_path / "t.json", 1_000_000, piece)
    monkeypatch.setattr("diffprof.chrome_trace.stream.CHUNK_BYTES", 10_000)
    scanned: list[int] = []
    scan = TraceStream._scan
    monkeypatch.setattr(
        TraceStream, "_scan", lambda self, buffer: scanned.append(len(buffer)) or scan(self, buffer)
    )
    assert len(read_trace(path).work) == 2
    assert 0 < sum(scanned) < 4 * path.stat().st_size


@pytest.mark.parametrize("piece", ["gemm<7, ", "("])
def test_a_name_of_megabytes_takes_time_in_proportion(tmp_path: Path, piece: str) -> None:
    small, large = (
        cpu_seconds(named(tmp_path / f"{size}.json", size, piece)) for size in (750_000, 3_000_000)
    )
    assert large < 3 * 4 * max(small, 0.05)


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
"""What the page on scans promises at most, beside what the process has anyway."""
BYTES_A_KERNEL = 300
"""At most, of a trace of kernels alone."""


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("lines", "most"), [((KERNEL,), 100), ((LAUNCH, KERNEL), 450)], ids=["kernels", "launches"]
)
def test_a_dense_trace_stays_below_its_bound(tmp_path: Path, lines: tuple[str, ...], most: int) -> None:
    """Well below what is promised: an object kept of each event would not be."""
    assert most < BYTES_AN_EVENT
    peaks = [peak_bytes(dense(tmp_path / f"{count}.json", count, *lines)) for count in (50_000, 90_000)]
    assert peaks[1] - peaks[0] < 40_000 * most


@pytest.mark.nightly
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
    assert int(done.stdout) * unit < 100e6 + 2_000_000 * BYTES_A_KERNEL
