"""Waits of the dispatcher found again in a trace of the same call, without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffprof.analyzers.kernels.joining import SeenWait, join_waits
from diffprof.chrome_trace.events import CallPart, phase_label
from diffprof.chrome_trace.reader import read_trace
from diffprof.chrome_trace.sections import Sections, sections_of
from diffprof.model.recording import SyncRow
from tests import builders
from tests.chrome_trace import traces
from tests.chrome_trace.traces import Event, call, kernel, launch, note, op

READ = "aten::_local_scalar_dense"


def read(number: int, at: float) -> list[Event]:
    """A value read as CUDA does it: a copy of 4 bytes, then a wait of 40 us."""
    return [
        op("aten::item", at, 60),
        op(READ, at + 1, 58),
        call("cudaMemcpyAsync", at + 5, 4, number),
        kernel("Memcpy DtoH (Device -> Pageable)", at + 20, 2, number, cat="gpu_memcpy"),
        call("cudaStreamSynchronize", at + 10, 40),
    ]


def profiled(tmp_path: Path, *, reads: int = 2, synchronize: bool = False) -> Sections:
    """Two steps, each with a kernel of the denoiser and `reads` reads of the scheduler."""
    events: list[Event] = []
    for step in range(2):
        at = 1000.0 * (step + 1)
        events += [note(phase_label(CallPart("denoise", step, "denoiser")), at, 100)]
        events += launch(10 * step + 1, at + 10, at + 20, 30.0)
        events += [note(phase_label(CallPart("denoise", step, "scheduler")), at + 100, 400)]
        for number in range(reads):
            events += read(10 * step + 2 + number, at + 110 + 70 * number)
    if synchronize:
        events.append(call("cudaDeviceSynchronize", 2900, 50))
    return sections_of(read_trace(traces.write(tmp_path / "t.json", events)))


def rows(*lines: int) -> tuple[SyncRow, ...]:
    return tuple(
        builders.make_sync(op=READ, site=builders.make_site(line=line), witnesses=("dispatch",))
        for line in lines
    )


def seen(*numbers: int, op: str = READ) -> list[SeenWait]:
    return [
        SeenWait(row=row, op=op, phase="denoise", step=step, part="scheduler")
        for step in range(2)
        for row in numbers
    ]


def test_reads_on_two_lines_of_one_function_are_told_apart_by_their_order(tmp_path: Path) -> None:
    joined = join_waits(rows(448, 281), seen(0, 1), profiled(tmp_path))
    assert [row.site.line for row in joined.syncs] == [448, 281]
    assert [row.blocked_us for row in joined.syncs] == [8.0 + 80.0] * 2  # the copy and the synchronize
    assert [row.witnesses for row in joined.syncs] == [("dispatch", "trace")] * 2
    assert joined.timeline is not None
    assert [row for row in joined.timeline.sync if row != -1] == [0, 1, 0, 1]


def test_a_call_with_other_counts_names_no_line(tmp_path: Path) -> None:
    joined = join_waits(rows(448), seen(0), profiled(tmp_path, reads=2))
    (row,) = joined.syncs
    assert row.blocked_us is None
    assert row.witnesses == ("dispatch",)
    assert joined.timeline is not None
    assert [row for row in joined.timeline.sync if row != -1] == [-2] * 4


def test_what_only_the_profiler_saw_is_added(tmp_path: Path) -> None:
    joined = join_waits(rows(448, 281), seen(0, 1), profiled(tmp_path, synchronize=True))
    assert len(joined.syncs) == 3
    assert joined.syncs[2].op == "cudaDeviceSynchronize"
    assert joined.syncs[2].witnesses == ("trace",)
    assert joined.timeline is not None
    assert joined.timeline.sync[-1] == 2


def test_gaps_name_the_row_of_the_wait_that_made_them(tmp_path: Path) -> None:
    found = profiled(tmp_path)
    assert found.gaps is not None
    assert any(gap.sync is not None for gap in found.gaps)
    joined = join_waits(rows(448, 281), seen(1, 0), found)
    assert joined.gaps is not None
    waits = [(gap.start_us, gap.sync) for gap in joined.gaps if gap.cause == "sync"]
    assert {sync for _, sync in waits} <= {0, 1}
    assert waits[0][1] == 1  # the first read of the step, which row 1 made here


@pytest.mark.parametrize("numbers", [(), (0,)])
def test_a_trace_without_waits_leaves_the_rows_alone(tmp_path: Path, numbers: tuple[int, ...]) -> None:
    before = rows(*[448 for _ in numbers])
    joined = join_waits(before, seen(*numbers), profiled(tmp_path, reads=0))
    assert joined.syncs == before
