"""Exports of Nsight Systems as traces: `nsys export --type sqlite`, or a `.nsys-rep` where `nsys` is there.

Its tables [docs.nvidia.com/nsight-systems/UserGuide, SQLite schema] hold what Kineto writes as events:
kernels, copies and memsets, runtime calls, NVTX ranges. They are written as a trace, and read as others are.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from diffprof.chrome_trace.events import Trace
from diffprof.chrome_trace.reader import read_trace
from diffprof.model.errors import UsageError

MAGIC = b"SQLite format 3\0"
REPORT = ".nsys-rep"

_COPIES = {1: "Host-to-Device", 2: "Device-to-Host", 8: "Device-to-Device", 10: "Peer-to-Peer"}
"""Labels of ENUM_CUDA_MEMCPY_OPER, where an export has no such table."""
_PLACES = {0: "Pageable", 1: "Pinned", 2: "Device", 3: "Array", 4: "Managed", 5: "Device Static"}
"""Labels of ENUM_CUDA_MEM_KIND, likewise."""
_RANGES = (59, 60)
"""NVTX_EVENTS.eventType: push and pop, start and end."""

Event = dict[str, Any]


def read_any(
    path: str | Path,
    *,
    progress: Callable[[int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Trace:
    """A trace of PyTorch's profiler, or an export or report of Nsight Systems; arguments as of `read_trace`.

    Raises UsageError for what is none.
    """
    path = Path(path)
    if path.name.endswith(REPORT):
        with _exported(path) as sqlite:
            return replace(_converted(sqlite, progress, stop), path=path)
    if path.is_file() and _begins_with(path, MAGIC):
        return replace(_converted(path, progress, stop), path=path)
    return read_trace(path, progress=progress, stop=stop)


def _begins_with(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError:
        return False  # What is wrong with it is said where it is read.


@contextmanager
def _exported(report: Path) -> Iterator[Path]:
    nsys = shutil.which("nsys")
    if nsys is None:
        raise UsageError(
            f"{report} is a report of Nsight Systems, and nsys is not on the path.",
            f"Export it where nsys is: nsys export --type sqlite {report.name}",
        )
    with TemporaryDirectory(prefix="diffprof-") as folder:
        made = Path(folder, "report.sqlite")
        done = subprocess.run(
            [nsys, "export", "--type", "sqlite", "--output", str(made), str(report)],
            capture_output=True,
            text=True,
        )
        if done.returncode or not made.exists():
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise UsageError(f"nsys could not export {report}: {' '.join(said)}", "Try it by hand.")
        yield made


def _converted(path: Path, progress: Callable[[int], None] | None, stop: Callable[[], bool] | None) -> Trace:
    with TemporaryDirectory(prefix="diffprof-") as folder:
        made = Path(folder, path.stem + ".json")
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                _write(_Export(database), made)
        except (sqlite3.Error, KeyError) as error:
            why = f"a table lacks the column {error}" if isinstance(error, KeyError) else error
            raise UsageError(
                f"{path} is no export of Nsight Systems: {why}.", "Make one: nsys export --type sqlite"
            ) from error
        return read_trace(made, progress=progress, stop=stop)


def _write(export: _Export, path: Path) -> None:
    """The header, and an event a line."""
    with path.open("w", encoding="utf-8") as file:
        header = json.dumps({"deviceProperties": export.devices(), **export.place()})
        file.write(header[:-1] + ', "traceEvents": [\n')
        for number, event in enumerate(export.events()):
            file.write((",\n" if number else "") + json.dumps(event))
        file.write("\n]}\n")


class _Export:
    """An open export."""

    def __init__(self, database: sqlite3.Connection) -> None:
        database.row_factory = sqlite3.Row
        self._database = database
        listed = database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        self._tables = {name for (name,) in listed}
        if "StringIds" not in self._tables:
            raise sqlite3.DatabaseError("it has no table StringIds")
        self._texts = {each["id"]: each["value"] for each in self._rows("StringIds")}
        self._copies = self._labels("ENUM_CUDA_MEMCPY_OPER") or _COPIES
        self._places = self._labels("ENUM_CUDA_MEM_KIND") or _PLACES
        self._processes: dict[int, int] = {}

    def _labels(self, table: str) -> dict[int, str]:
        return {row["id"]: row["label"] for row in self._rows(table) if row.get("label")}

    def _correlated(self, row: dict[str, Any]) -> dict[str, object]:
        """The row with a correlation of its own among all processes: CUPTI counts in each from the start."""
        told = row.get("globalTid", row.get("globalPid"))
        if told is None or row.get("correlationId") is None:
            return row
        number = self._processes.setdefault(told >> 24, len(self._processes))
        return {**row, "correlationId": row["correlationId"] + (number << 32)}

    def _rows(self, table: str) -> Iterator[dict[str, Any]]:
        """Of a table; none where the export has no such table."""
        if table in self._tables:
            for row in self._database.execute(f'SELECT * FROM "{table}"'):
                yield dict(row)

    def devices(self) -> list[dict[str, Any]]:
        """As Kineto's `deviceProperties`."""
        return [
            {
                "id": row["id"],
                "name": row.get("name"),
                "totalGlobalMem": row.get("totalMemory"),
                "computeMajor": row.get("computeMajor"),
                "computeMinor": row.get("computeMinor"),
                "numSms": row.get("smCount"),
            }
            for row in self._rows("TARGET_INFO_GPU")
        ]

    def place(self) -> dict[str, Any]:
        """The host, where it is told, and when it was recorded."""
        told: dict[str, object] = {}
        for row in self._rows("TARGET_INFO_SYSTEM_ENV"):
            if row.get("name") == "Hostname" or row.get("nameEnum") == "HOSTNAME":
                told["hostname"] = row.get("value")
        for row in self._rows("TARGET_INFO_SESSION_START_TIME"):
            told["baseTimeNanoseconds"] = row.get("utcEpochNs")
        return told

    def events(self) -> Iterator[Event]:
        """As Kineto writes them."""
        for row in self._rows("CUPTI_ACTIVITY_KIND_RUNTIME"):
            name = self._texts.get(row["nameId"], "")
            yield _span(
                "cuda_runtime", name.partition("_v")[0], self._correlated(row), *_thread(row["globalTid"])
            )
        for row in self._rows("CUPTI_ACTIVITY_KIND_KERNEL"):
            name = self._texts.get(row.get("demangledName"), "") or self._texts.get(row.get("shortName"), "")
            yield _device("kernel", name, self._correlated(row))
        for row in self._rows("CUPTI_ACTIVITY_KIND_MEMCPY"):
            way = _way(self._copies.get(row["copyKind"], "Host-to-Host"))
            ends = (self._places.get(row[end], "Device").split()[0] for end in ("srcKind", "dstKind"))
            yield _device("gpu_memcpy", f"Memcpy {way} ({' -> '.join(ends)})", self._correlated(row))
        for row in self._rows("CUPTI_ACTIVITY_KIND_MEMSET"):
            yield _device("gpu_memset", "Memset (Device)", self._correlated(row))
        for row in self._rows("NVTX_EVENTS"):
            text = row.get("text") or self._texts.get(row.get("textId"), "")
            if row.get("eventType") in _RANGES and row.get("end") is not None and text:
                yield _range(text, row)


def _way(label: str) -> str:
    """`HtoD` of `Host-to-Device`, and of `Unified Host-to-Device`."""
    return "to".join(end.split()[-1][0] for end in label.split("-to-"))


def _range(text: str, row: dict[str, Any]) -> Event:
    """An op where `torch.autograd.profiler.emit_nvtx` made it, such as `aten::mm, seq = 4`."""
    name = text.partition(", ")[0]
    category = "cpu_op" if "::" in name else "user_annotation"
    return _span(category, name if category == "cpu_op" else text, row, *_thread(row.get("globalTid")))


def _thread(number: int | None) -> tuple[int, int]:
    """(process, thread) of a globalTid; a range that begins and ends anywhere may have none."""
    number = number or 0
    return number >> 24 & 0xFFFFFF, number & 0xFFFFFF


def _device(category: str, name: str, row: dict[str, Any]) -> Event:
    return _span(category, name, row, row["deviceId"], row["streamId"], device=row["deviceId"])


def _span(category: str, name: str, row: dict[str, Any], pid: int, tid: int, **more: object) -> Event:
    args = {"correlation": row.get("correlationId"), "bytes": row.get("bytes"), **more}
    if "device" in more:
        args |= {"stream": tid, "graph id": row.get("graphId"), "graph node id": row.get("graphNodeId")}
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "pid": pid,
        "tid": tid,
        "ts": row["start"] / 1e3,
        "dur": (row["end"] - row["start"]) / 1e3,
        "args": {key: value for key, value in args.items() if value is not None},
    }
