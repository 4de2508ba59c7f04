"""An export of Nsight Systems gives the recording that the same trace of PyTorch's profiler gives."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from diffprof.chrome_trace.nsight import read_any
from diffprof.model.errors import UsageError
from diffprof.scanning.importing import import_trace, record_trace
from tests.chrome_trace.traces import call, kernel, note, op, write

SCHEMA = """
CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT);
CREATE TABLE TARGET_INFO_GPU (id INTEGER, name TEXT, totalMemory INTEGER, computeMajor INTEGER,
  computeMinor INTEGER, smCount INTEGER);
CREATE TABLE TARGET_INFO_SYSTEM_ENV (globalVid INTEGER, devStateName TEXT, name TEXT, nameEnum TEXT,
  value TEXT);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, end INTEGER, eventClass INTEGER, globalTid INTEGER,
  correlationId INTEGER, nameId INTEGER, returnValue INTEGER, callchainId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER, contextId INTEGER,
  streamId INTEGER, correlationId INTEGER, globalPid INTEGER, demangledName INTEGER, shortName INTEGER,
  graphId INTEGER, graphNodeId INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER, end INTEGER, deviceId INTEGER, contextId INTEGER,
  streamId INTEGER, correlationId INTEGER, globalPid INTEGER, bytes INTEGER, copyKind INTEGER,
  srcKind INTEGER, dstKind INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT, textId INTEGER,
  globalTid INTEGER);
"""
PROCESS = 10 << 24
THREAD = PROCESS | 10
NAMES = {1: "cudaLaunchKernel_v7000", 2: "cudaMemcpyAsync_v3020", 3: "cudaStreamSynchronize_v3020"}
KERNELS = {4: "ampere_sgemm_128x64_nn", 5: "void at::native::reduce_kernel<512>(float)"}


def export(path: Path) -> Path:
    """Two steps, each of a kernel of 600 us and a read from pageable memory, as NVTX ranges."""
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)

        def add(table: str, *rows: tuple[object, ...]) -> None:
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)

        add("StringIds", *NAMES.items(), *KERNELS.items(), (6, "step range"))
        add("TARGET_INFO_GPU", (0, "NVIDIA A100-SXM4-80GB", 85093777408, 8, 0, 108))
        add("TARGET_INFO_SYSTEM_ENV", (1, "", "Hostname", "", "node-3"))
        for step in range(2):
            at, number = step * 1_000_000, 2 * step
            add(
                "CUPTI_ACTIVITY_KIND_RUNTIME",
                (at + 5_000, at + 8_000, 0, THREAD, number, 1, 0, None),
                (at + 602_000, at + 604_000, 0, THREAD, number + 1, 2, 0, None),
                (at + 605_000, at + 705_000, 0, THREAD, -1, 3, 0, None),
            )
            add(
                "CUPTI_ACTIVITY_KIND_KERNEL",
                (at + 20_000, at + 620_000, 0, 1, 7, number, PROCESS, 4, 4, None, None),
            )
            add(
                "CUPTI_ACTIVITY_KIND_MEMCPY",
                (at + 622_000, at + 624_000, 0, 1, 7, number + 1, PROCESS, 4, 2, 2, 0),
            )
            add(
                "NVTX_EVENTS",
                (at, at + 999_000, 59, f"ProfilerStep#{step}", None, THREAD),
                (at + 3_000, at + 9_000, 59, "aten::mm, seq = 4", None, THREAD),
                (at + 1, None, 34, "a mark", None, THREAD),
            )
    return path


def kineto(path: Path) -> Path:
    """The same as PyTorch's profiler writes it."""
    events = []
    for step in range(2):
        at, number = step * 1000.0, 2 * step
        events += [
            note(f"ProfilerStep#{step}", at, 999),
            op("aten::mm", at + 3, 6),
            call("cudaLaunchKernel", at + 5, 3, number),
            kernel(KERNELS[4], at + 20, 600, number),
            call("cudaMemcpyAsync", at + 602, 2, number + 1),
            kernel("Memcpy DtoH (Device -> Pageable)", at + 622, 2, number + 1, cat="gpu_memcpy"),
            call("cudaStreamSynchronize", at + 605, 100),
        ]
    gpu = {"id": 0, "name": "NVIDIA A100-SXM4-80GB", "totalGlobalMem": 85093777408, "numSms": 108}
    return write(path, events, deviceProperties=[gpu])


def test_it_is_the_same_recording(tmp_path: Path) -> None:
    mine, other = record_trace(export(tmp_path / "r.sqlite")), record_trace(kineto(tmp_path / "r.json"))
    assert mine.device.name == other.device.name == "NVIDIA A100-SXM4-80GB"
    assert mine.kernels is not None
    assert mine.kernels == other.kernels
    assert mine.gaps == other.gaps
    assert mine.syncs is not None
    assert other.syncs is not None
    assert [(w.kind, w.count, w.blocked_us) for w in mine.syncs] == [
        (w.kind, w.count, w.blocked_us) for w in other.syncs
    ]
    assert mine.timeline is not None
    assert mine.target.spec == "r.sqlite"


def test_its_report_has_findings(tmp_path: Path) -> None:
    report = import_trace(export(tmp_path / "r.sqlite"))
    assert "SYN004" in {finding.rule for finding in report.findings}
    assert read_any(tmp_path / "r.sqlite").meta["hostname"] == "node-3"


def test_kernels_of_a_graph_belong_to_its_launch(tmp_path: Path) -> None:
    path = export(tmp_path / "r.sqlite")
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO StringIds VALUES (9, 'cudaGraphLaunch_v10000')")
        database.execute("UPDATE CUPTI_ACTIVITY_KIND_RUNTIME SET nameId = 9 WHERE nameId = 1")
        database.execute("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET graphId = 1, graphNodeId = 4")
    trace = read_any(path)
    assert "cudaGraphLaunch" in trace.names
    assert sorted(trace.work.correlation.tolist()) == [0, 1, 2, 3]


def test_another_database_is_a_usage_error(tmp_path: Path) -> None:
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE t (x)")
    with pytest.raises(UsageError, match="it has no table StringIds"):
        read_any(path)
    with sqlite3.connect(export(tmp_path / "r.sqlite")) as database:
        database.execute("ALTER TABLE CUPTI_ACTIVITY_KIND_RUNTIME DROP COLUMN nameId")
    with pytest.raises(UsageError, match="a table lacks the column 'nameId'"):
        read_any(tmp_path / "r.sqlite")


def test_a_report_needs_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="nsys is not on the path") as refused:
        read_any(tmp_path / "run.nsys-rep")
    assert refused.value.hint == "Export it where nsys is: nsys export --type sqlite run.nsys-rep"


NSYS = """#!/bin/sh
# nsys export --type sqlite --output MADE REPORT
[ "$1 $2 $3 $4" = "export --type sqlite --output" ] || exit 3
case "$6" in *broken*) echo "Importer error: the report is damaged" >&2; exit 1;; esac
/bin/cp "$6" "$5"
"""


def test_a_report_is_exported_where_nsys_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = tmp_path / "bin" / "nsys"
    nsys.parent.mkdir()
    nsys.write_text(NSYS)
    nsys.chmod(0o755)
    monkeypatch.setenv("PATH", str(nsys.parent))
    report = export(tmp_path / "run.sqlite").rename(tmp_path / "run.nsys-rep")
    trace = read_any(report)
    assert trace.path == report
    assert len(trace.work) == 4
    broken = tmp_path / "broken.nsys-rep"
    broken.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"could not export .*: Importer error: the report is damaged"):
        read_any(broken)


def test_labels_of_the_export_and_processes_tell_copies_and_launches_apart(tmp_path: Path) -> None:
    path = export(tmp_path / "r.sqlite")
    other = 11 << 24
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE ENUM_CUDA_MEMCPY_OPER (id INTEGER, name TEXT, label TEXT);"
            "CREATE TABLE ENUM_CUDA_MEM_KIND (id INTEGER, name TEXT, label TEXT);"
            "INSERT INTO ENUM_CUDA_MEMCPY_OPER VALUES (2, '', 'Unified Device-to-Host');"
            "INSERT INTO ENUM_CUDA_MEM_KIND VALUES (0, '', 'Pinned'), (2, '', 'Device Static');"
        )
        for table, column in (("RUNTIME", "globalTid"), ("KERNEL", "globalPid"), ("MEMCPY", "globalPid")):
            database.execute(
                f"UPDATE CUPTI_ACTIVITY_KIND_{table} SET {column} = "
                f"CASE WHEN start < 900000 THEN {PROCESS} ELSE {other} END, correlationId = correlationId % 2"
            )
    trace = read_any(path)
    assert "Memcpy DtoH (Device -> Pinned)" in trace.names
    assert sorted(trace.work.correlation.tolist()) == [0, 1, 1 << 32, (1 << 32) + 1]
