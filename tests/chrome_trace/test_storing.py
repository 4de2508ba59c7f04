"""The trace beside a stored report."""

from __future__ import annotations

import datetime
import gzip
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.chrome_trace import storing
from diffprof.judge.timeline import replay
from diffprof.model.recording import DeviceInfo, Grade, MemoryUse, Timeline
from diffprof.model.report import load_report
from diffprof.scanning.importing import record_trace
from diffprof.scanning.storing import store
from tests import builders
from tests.chrome_trace.test_writer import READ, call

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)
PLUGIN = re.compile(r"^(.*?)(\.\d+)?\.pt\.trace\.json(\.gz)?$")
"""WORKER_PATTERN of torch-tb-profiler 0.4.3, torch_tb_profiler/consts.py."""

A100 = DeviceInfo(
    spec="sim:a100-80gb",
    kind="sim",
    name="NVIDIA A100 SXM4 80GB",
    grade=Grade.SIMULATED,
    memory_bytes=80 << 30,
    details={"capability": "8.0", "processors": 108},
)


def recording(timeline: Timeline | None):
    made = builders.make_recording(READ, timeline=timeline)
    return replace(made, device=A100, memory=MemoryUse(grade=Grade.SIMULATED, by_step=(1, 2, 3, 4)))


def test_a_simulated_timeline_is_written_and_the_stock_plugin_leaves_it_alone(tmp_path: Path) -> None:
    timeline = call()
    stored = store(builders.make_report(recording=recording(timeline)), tmp_path, now=NOW)
    assert stored.path is not None
    folder = Path(stored.path)
    name = load_report(folder).recording.trace_file
    assert name is not None
    assert name.endswith(f".{int(NOW.timestamp()) * 10**9}.trace.json.gz")
    assert not PLUGIN.match(name)
    assert sorted(path.name for path in folder.iterdir()) == sorted([name, "report.json"])
    again = record_trace(folder / name)
    assert again.device.name == A100.name
    assert again.device.memory_bytes == A100.memory_bytes
    assert again.device.details["numSms"] == 108
    assert again.timeline is not None
    assert replay(again.timeline).total_us == pytest.approx(replay(timeline).total_us, rel=0.005)


@pytest.mark.parametrize("zipped", [False, True])
def test_the_trace_that_was_read_is_kept(tmp_path: Path, zipped: bool) -> None:
    source = tmp_path / ("mine.json.gz" if zipped else "mine.json")
    text = b'{"traceEvents": []}'
    source.write_bytes(gzip.compress(text) if zipped else text)
    report = builders.make_report(recording=recording(call()))
    stored = store(report, tmp_path / "traces", now=NOW, trace=source, imported=True)
    assert stored.path is not None
    assert stored.recording.trace_file is not None
    assert gzip.decompress((Path(stored.path) / stored.recording.trace_file).read_bytes()) == text
    assert source.exists()


def test_a_trace_too_large_to_copy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "COPY_LIMIT", 10)
    source = tmp_path / "mine.json"
    source.write_text('{"traceEvents": []}')
    report = builders.make_report(recording=recording(call()))
    stored = store(report, tmp_path / "traces", now=NOW, trace=source)
    assert stored.recording.trace_file is None
    assert "not copied" in stored.recording.unseen[-1].why


def test_without_a_timeline_there_is_no_trace(tmp_path: Path) -> None:
    stored = store(builders.make_report(recording=recording(None)), tmp_path, now=NOW)
    assert stored.recording.trace_file is None
    assert [path.name for path in Path(stored.path or "").iterdir()] == ["report.json"]


def test_a_disk_that_takes_only_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffprof.chrome_trace.writer.whole_file", full)
    stored = store(builders.make_report(recording=recording(call())), tmp_path, now=NOW)
    assert stored.recording.trace_file is None
    assert "No space left" in stored.recording.unseen[-1].why
    assert [path.name for path in Path(stored.path or "").iterdir()] == ["report.json"]
