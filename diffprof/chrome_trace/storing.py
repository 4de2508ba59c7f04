"""The trace that lies beside a stored report."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from msgspec.structs import replace

from diffprof.chrome_trace.embedded_recording import member
from diffprof.chrome_trace.stream import GZIP_MAGIC
from diffprof.chrome_trace.writer import packed, unwritten, write_trace
from diffprof.model.errors import DiffprofError
from diffprof.model.recording import DeviceInfo, Grade, Recording, Unseen
from diffprof.model.recording.whole_file import whole_file

SUFFIX = ".trace.json.gz"
"""Not `.pt.trace.json.gz`, by which the stock profiler plugin of TensorBoard would load it beside diffprof's
and show zeros: `diffprof tensorboard` writes a copy that is read rightly."""

COPY_LIMIT = 256 << 20
"""Bytes of the largest trace that is copied beside its report."""

BLOCK_BYTES = 1 << 20
"""Copied at a time."""

TAIL_BYTES = 4096
"""At the end of a trace, in which its last brace is looked for."""


def store_trace(
    recording: Recording,
    folder: Path,
    *,
    worker: str,
    now: datetime.datetime,
    exported: Path | None = None,
    imported: bool = False,
) -> Recording:
    """Put the trace of a recording into the folder of its report; returns the recording that names it.

    exported: the trace that the recording was read from; without one a simulated timeline is written. The
    trace of a scan carries its recording. imported: exported is a file from elsewhere, and is kept as it is.
    What the disk does not take is noted in `unseen`, and the report lives on.
    """
    name = f"{worker}.{int(now.timestamp() * 1e9)}{SUFFIX}"
    try:
        if exported is not None:
            _copy(exported, folder / name, b"" if imported else member(recording))
        elif _is_simulated(recording):
            _write(recording, folder / name)
        else:
            return replace(recording, trace_file=None)
    except DiffprofError as error:
        lost = Unseen(what="the trace beside the report", why=error.what.removesuffix("."), kind="note")
        return replace(recording, trace_file=None, unseen=(*recording.unseen, lost))
    return replace(recording, trace_file=name)


def _is_simulated(recording: Recording) -> bool:
    timeline = recording.timeline
    return timeline is not None and timeline.grade is Grade.SIMULATED and bool(timeline.host_us)


def _write(recording: Recording, path: Path) -> None:
    assert recording.timeline is not None
    write_trace(
        path,
        recording.timeline,
        recording.syncs or (),
        device_name=recording.device.name,
        properties=kineto_properties(recording.device),
        metadata={"target": recording.target.spec, "device": recording.device.spec},
        memory=recording.memory,
        member=member(recording),
    )


def kineto_properties(device: DeviceInfo) -> Mapping[str, object]:
    """What is known of a device in the names of Kineto's `deviceProperties`."""
    found: dict[str, object] = {}
    major, _, minor = str(device.details.get("capability", "")).partition(".")
    if major.isdigit() and minor.isdigit():
        found |= {"computeMajor": int(major), "computeMinor": int(minor)}
    if device.memory_bytes is not None:
        found["totalGlobalMem"] = device.memory_bytes
    if (processors := device.details.get("processors")) is not None:
        found["numSms"] = processors
    return found


def _closing_brace(source: BinaryIO, size: int) -> int:
    """Where the brace that ends the file's object stands; size if it does not end with one."""
    source.seek(max(0, size - TAIL_BYTES))
    tail = source.read().rstrip()
    source.seek(0)
    return max(0, size - TAIL_BYTES) + len(tail) - 1 if tail.endswith(b"}") else size


def _copy(exported: Path, target: Path, member: bytes) -> None:
    """Compressed, if it is not yet. member: put at the end of
    a plain file's object."""
    try:
        if not exported.is_file():
            raise DiffprofError(f"{exported} is no file, and was read once: it is not kept")
        size = exported.stat().st_size
        if size > COPY_LIMIT:
            raise DiffprofError(
                f"{exported.name} has {size / 1e6:,.0f} MB and was not copied: it can be opened where it is"
            )
        with exported.open("rb") as source:
            zipped = source.read(2) == GZIP_MAGIC
            source.seek(0)
            with whole_file(target) as raw, packed(raw, not zipped) as file:
                end = size if zipped or not member else _closing_brace(source, size)
                for at in range(0, end, BLOCK_BYTES):
                    file.write(source.read(min(BLOCK_BYTES, end - at)))
                if end < size:
                    file.write(b",\n" + member + b"}\n")
    except OSError as error:
        raise unwritten(target, error) from error
