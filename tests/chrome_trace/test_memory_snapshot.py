"""PyTorch's memory snapshot: what is written, its own viewer reads; what is read can run nothing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from torch.cuda import _memory_viz

from diffprof.chrome_trace.memory_snapshot import BASE, BlockEvent, memory_of, snapshot
from diffprof.model.errors import UsageError
from diffprof.model.recording import MemoryKind
from diffprof.scanning.importing import import_trace, record_snapshot
from diffprof.scanning.snapshots import export_memory
from diffprof.targets import Options

LINE = (("/home/me/resnet.py", 327, "forward"),)
EVENTS = (
    BlockEvent(0, 4096, 1, (("weights of unet", 0, "unet"),)),
    BlockEvent(1, 1024, 2, LINE),
    BlockEvent(2, 2048, 3, LINE),
    BlockEvent(3, -1024, 2),
    BlockEvent(4, 1024, 4, LINE),
    BlockEvent(5, -7, 99),
    BlockEvent(6, -2048, 3),
)


def test_blocks_are_used_again_and_all_that_is_there_is_in_the_segment() -> None:
    made = snapshot(EVENTS)
    (segment,) = made["segments"]
    assert [(b["address"] - BASE, b["size"], b["state"]) for b in segment["blocks"]] == [
        (0, 4096, "active_allocated"),
        (4096, 1024, "active_allocated"),
        (5120, 2048, "inactive"),
    ]
    assert segment["total_size"] == 7168
    assert segment["allocated_size"] == 5120
    assert [entry["action"] for entry in made["device_traces"][0]] == [
        "segment_alloc",
        *("alloc", "alloc", "alloc", "free_requested", "free_completed"),
        *("alloc", "free_requested", "free_completed"),
    ]


def test_pytorchs_own_readers_take_it() -> None:
    made = snapshot(EVENTS)
    assert "total_allocated: 5.0KiB" in _memory_viz.segsum(made)
    lines = _memory_viz.trace(made).splitlines()
    assert lines[2] == f"a = cudaMalloc({BASE}, 7.0KiB)"
    assert lines[3:6] == ["b = a[0:4.0KiB]", "c = a[4096:1.0KiB]", "d = a[5120:2.0KiB]"]
    assert "<html" in _memory_viz.trace_plot(made).lower() or "<script" in _memory_viz.trace_plot(made)
    assert "<script" in _memory_viz.segment_plot(made)


def test_the_peak_and_who_held_it_come_back() -> None:
    use = memory_of(snapshot(EVENTS))
    assert use.peak_bytes == 4096 + 1024 + 2048
    held = use.at_peak or ()
    assert [(each.bytes, each.count, each.site and each.site.line) for each in held] == [
        (4096, 1, None),
        (3072, 2, 327),
    ]
    assert use.curve[-1].bytes == 5120


def test_blocks_that_no_event_made_were_there_before() -> None:
    made = snapshot(EVENTS)
    made["device_traces"] = [made["device_traces"][0][2:]]
    use = memory_of(made)
    assert use.peak_bytes == 7168
    assert [each.kind for each in use.at_peak or ()] == [MemoryKind.OTHER, MemoryKind.ACTIVATIONS]


def test_a_simulated_call_goes_there_and_back(tmp_path: Path) -> None:
    path = tmp_path / "memory.pickle"
    peak = export_memory("tiny-sdxl", path, device="sim:rtx4090", options=Options(steps=1))
    data = pickle.loads(path.read_bytes())
    assert "segments: 1\n" in _memory_viz.segsum(data)
    named = {frame["name"] for entry in data["device_traces"][0] for frame in entry["frames"]}
    assert {"unet", "vae", "unet.conv_in"} <= named
    use = record_snapshot(path).memory
    assert use is not None
    assert use.peak_bytes is not None
    # Workspaces are no tensors: they are in the peak of the call and not in the snapshot.
    assert 0.3 * peak < use.peak_bytes <= peak
    assert sum(each.bytes for each in use.at_peak or ()) == use.peak_bytes
    report = import_trace(path)
    assert report.recording.memory == use


class Runs:
    """A pickle of it would run a command."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def one(size: object, times: int = 1) -> bytes:
    """A snapshot with one event, and that so many times; a number of them costs the file two bytes each."""
    event = {"action": "alloc", "addr": 1, "size": size, "frames": []}
    return pickle.dumps({"segments": [], "device_traces": [[event] * times]})


def test_an_event_that_is_named_very_often_is_not_looked_at_so_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "many.pickle"
    path.write_bytes(one(512, times=1001))
    assert import_trace(path).recording.memory is not None
    monkeypatch.setattr("diffprof.chrome_trace.memory_snapshot.MOST_EVENTS", 1000)
    with pytest.raises(UsageError, match=r"it has 1,001 events, more than 1,000\."):
        import_trace(path)


@pytest.mark.parametrize(
    "data",
    [
        one(-1),
        one(10**30),
        one(1 << 49, times=3),
        one(float("inf")),
        one("9" * 5000),
        pickle.dumps(Runs()),
        pickle.dumps({"device_traces": Runs()}),
        pickle.dumps({"segments": []}),
        pickle.dumps([1, 2]),
        pickle.dumps({"segments": [], "device_traces": [[{"action": "alloc"}]]}),
        pickle.dumps({"segments": [], "device_traces": []}),
        b"\x80\x04garbage",
        b"\x80",
    ],
)
def test_what_is_no_snapshot_is_refused_and_runs_nothing(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pickle"
    path.write_bytes(data)
    with pytest.raises(UsageError, match="no memory snapshot"):
        import_trace(path)
    assert not (tmp_path / "ran").exists()
