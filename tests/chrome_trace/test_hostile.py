"""Whatever the file: one clear error, or a report that says what is missing."""

from __future__ import annotations

import contextlib
import copy
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffprof.model.errors import UsageError
from diffprof.model.report import from_json, to_json
from diffprof.scanning.importing import import_trace
from diffprof.views import render
from tests.chrome_trace.traces import Event, call, frame, kernel, launch, note, op, write

NO_TIME = 10**400


def events() -> list[Event]:
    """One of everything that the reader looks at."""
    found = []
    for number in range(8):
        found += launch(number, 30 * number + 5, 30 * number + 9, 10)
    memory = {"Total Allocated": 5, "Device Type": 1, "Device Id": 0}
    return [
        *found,
        call("cudaStreamSynchronize", 250, 30, 90),
        call("cudaFree", 290, 5, 91),
        op("aten::item", 298, 20),
        call("cudaMemcpyAsync", 300, 4, 92),
        kernel("Memcpy DtoH (Device -> Pageable)", 305, 9, 92, cat="gpu_memcpy"),
        frame("diffusers/pipelines/pipeline_x.py(9): __call__", 0, 350),
        frame("nn.Module: UNet_0", 0, 300),
        note("diffprof::denoise[0]/denoiser", 0, 100),
        note("diffprof::denoise[1]", 100, 100),
        note("ProfilerStep#1", 0, 400),
        {**frame("[memory]", 50, 0), "ph": "i", "cat": "cpu_instant_event", "args": memory},
        {"ph": "s", "cat": "ac2g", "name": "ac2g", "id": 1, "pid": 10, "tid": 10, "ts": 35},
        {"ph": "f", "bp": "e", "cat": "ac2g", "name": "ac2g", "id": 1, "pid": 0, "tid": 7, "ts": 39},
    ]


def imported(path: Path) -> str:
    """The report as text."""
    report = import_trace(path)
    assert to_json(from_json(to_json(report))) == to_json(report)
    return " ".join(render(report, "text", columns=200, verbose=True).split())


def with_changes(**changes: Any) -> list[Event]:
    return [{**event, **changes} for event in events()]


def without(*keys: str) -> list[Event]:
    return [{key: value for key, value in event.items() if key not in keys} for event in events()]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"null", "is no trace: it starts with b'null'"),
        (b"42", "is no trace"),
        (b"\0" * 5000, "is no trace"),
        (json.dumps({"traceEvents": []}).encode("utf-16"), "is no trace"),
        (b'{"traceEvents": {}}', "its `traceEvents` is no list"),
        (b'{"traceEvents": [1, 2, 3]}', "holds 3 events, and none can be read"),
        (json.dumps({"traceEvents": with_changes(ts="soon")}).encode(), "none can be read"),
        (json.dumps({"traceEvents": without("ts")}).encode(), "none can be read"),
        (json.dumps({"traceEvents": with_changes(ts=NO_TIME)}).encode(), "none can be read"),
        (json.dumps({"traceEvents": without("cat")}).encode(), "not one of PyTorch's profiler"),
        (b'{"\x97\xa3": 1, "x": ', "is damaged before its first event"),
        (gzip.compress(b"{" * 1000, mtime=0)[:11], "holds nothing readable: the gzip stream ends early"),
    ],
)
def test_no_trace_is_one_clear_error(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(why)) as caught:
        import_trace(path)
    assert caught.value.hint


def test_text_in_utf_16_gets_its_own_hint(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({"traceEvents": events()}), encoding="utf-16")
    with pytest.raises(UsageError) as caught:
        import_trace(path)
    assert "save it as UTF-8" in caught.value.hint


@pytest.mark.parametrize("length", [0, -4, None, math.nan, math.inf, NO_TIME])
def test_work_without_a_length_is_not_idle_time(tmp_path: Path, length: float | None) -> None:
    path = write(tmp_path / "t.json", with_changes(dur=length))
    recording = import_trace(path).recording
    assert (recording.kernels, recording.gaps, recording.timing, recording.timeline) == (None,) * 4
    text = imported(path)
    assert "none of the 9 kernels and copies has a length in this trace" in text
    assert "Device idle" not in text
    assert ("it is missing, negative or no number" in text) == (length != 0)


def test_one_absurd_event_costs_only_itself(tmp_path: Path) -> None:
    whole = import_trace(write(tmp_path / "whole.json", events())).recording
    for odd in ({"ts": NO_TIME}, {"ts": 1e308}, {"ts": -math.inf}, {"ts": math.nan}):
        read = import_trace(write(tmp_path / "odd.json", [{**events()[0], **odd}, *events()])).recording
        assert read.timeline == whole.timeline
        assert any("could not be decoded" in gap.why for gap in read.unseen)


def test_half_a_surrogate_costs_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.json", [*events(), kernel("k\ud800", 900, 10)])
    assert "k\\ud800" in imported(path)
    # With a bare number, which is read another way.
    path.write_text(path.read_text().replace('"ts": 900', '"ts": 900, "x": inf'))
    recording = import_trace(path).recording
    assert {"k\ud800", "k_kernel"} <= {row.name for row in recording.kernels or ()}
    assert not any("could not be decoded" in gap.why for gap in recording.unseen)


@pytest.mark.parametrize("size", [NO_TIME, -1, "much", None, 1.5])
def test_memory_that_is_no_number_is_not_known(tmp_path: Path, size: object) -> None:
    properties = [{"id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": size}]
    path = write(tmp_path / "t.json", events(), deviceProperties=properties)
    assert import_trace(path).recording.device.memory_bytes is None
    assert imported(path)


def test_of_several_gpus_the_busiest_is_named(tmp_path: Path) -> None:
    busy = {**kernel("k", 900, 500), "pid": 1, "args": {"device": 1, "stream": 7}}
    properties = [{"id": 0, "name": "small"}, {"id": 1, "name": "large"}]
    path = write(tmp_path / "t.json", [*events(), busy], deviceProperties=properties)
    report = import_trace(path)
    assert report.recording.device.name == "large"
    assert "idle time of device 0: not seen: gaps are shown for the busiest device, 1" in imported(path)


VALUES = st.sampled_from(
    [
        *(None, 0, -1, True, 1.5, 1e30, -1e300, NO_TIME, 2**63, -(2**63), math.nan, math.inf),
        *("", "x", "12", "0x10", "\ud800", [], {}, [1], {"a": 1}),
    ]
)


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A trace with some values replaced or gone, some bytes changed, and sometimes cut and gzipped."""
    made: list[Any] = copy.deepcopy(events())
    for _ in range(draw(st.integers(0, 6))):
        event = draw(st.sampled_from(made))
        args = event.get("args")
        target = args if isinstance(args, dict) and args and draw(st.booleans()) else event
        if target:
            target[draw(st.sampled_from(sorted(target)))] = draw(VALUES)
    if draw(st.booleans()):
        made.reverse()
    head = {"deviceProperties": draw(st.sampled_from([[], None, 5, [{"id": 0, "name": 5}]]))}
    data = bytearray(json.dumps({**head, "traceEvents": made}).encode())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 20))] = draw(st.binary(max_size=3))
    if draw(st.booleans()):
        return bytes(data)
    return gzip.compress(bytes(data))[: draw(st.integers(1, 3000))]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=hostile())
def test_nothing_makes_it_fail(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "hostile.json"
    path.write_bytes(content)
    with contextlib.suppress(UsageError):
        assert "idles 0%" not in imported(path)
