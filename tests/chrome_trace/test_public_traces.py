"""What is read of public traces against sums computed from their raw JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from diffprof.chrome_trace.events import EventTable
from diffprof.chrome_trace.links import Links
from diffprof.chrome_trace.phases import find_phases
from diffprof.chrome_trace.reader import read_trace
from diffprof.chrome_trace.waits import find_waits
from diffprof.scanning.importing import record_trace
from tests.chrome_trace.public_traces import sums
from tests.chrome_trace.test_hostile import events
from tests.chrome_trace.test_real_traces import FOLDER
from tests.chrome_trace.test_waits import download, standing
from tests.chrome_trace.traces import write

SUMS = json.loads(Path(__file__).with_name("public_traces.json").read_text())
PLACES = (FOLDER, Path(os.environ.get("DIFFPROF_PUBLIC_TRACES", "public-traces")))


def found(name: str) -> Path:
    for place in PLACES:
        if (path := place / f"{name}.json.gz").exists():
            return path
    pytest.skip(f"{name} is not here: python -m tests.chrome_trace.public_traces {PLACES[-1]}")


def same(path: Path, known: dict[str, float]) -> None:
    """Times to a microsecond: Kineto writes nanoseconds, and sums of them are rounded."""
    trace = read_trace(path)
    links = Links(trace)
    waits = find_waits(trace, links, find_phases(trace, links))
    # The profiler's own waits are in the JSON and in no finding; giving memory back is no wait by its name.
    blocked = sum(row.blocked_us or 0.0 for row in waits.rows if row.kind != "free") + waits.unasked_us
    assert blocked == pytest.approx(known["blocked_us"], abs=1.0)
    tables = trace.work.table
    assert int((tables == EventTable.KERNEL).sum()) == known["kernels"]
    assert int((tables == EventTable.COPY).sum()) == known["copies"]
    recording = record_trace(path)
    assert recording.device.details.get("busy_us", 0.0) == pytest.approx(known["busy_us"], abs=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SUMS))
def test_a_trace_holds_what_its_json_does(name: str) -> None:
    path = found(name)
    assert sums(path) == SUMS[name]
    same(path, SUMS[name])


@pytest.mark.parametrize(
    "made", [download(), download(synchronized=False), standing("hipMemcpyWithStream"), events()]
)
def test_a_small_trace_of_the_same_features_does(tmp_path: Path, made: list[dict[str, object]]) -> None:
    path = write(tmp_path / "t.json.gz", made)
    same(path, sums(path))
