"""The trace that lies beside a stored report."""

from __future__ import annotations

import datetime
import gzip
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from diffprof.chrome_trace.writer import write_trace
from diffprof.errors import DiffprofError
from diffprof.recording import DeviceInfo, Grade, Recording, Unseen

SUFFIX = ".trace.json.gz"
"""Not `.pt.trace.json.gz`, by which the stock profiler plugin of TensorBoard would load it beside diffprof's
and show zeros: `diffprof tensorboard` writes a copy that is read rightly."""

COPY_LIMIT = 256 << 20
"""Bytes of the largest trace that is copied beside its report."""

GZIP_MAGIC = b"\x1f\x8b"


def store_trace(
    recording: Recording, folder: Path, *, worker: str, now: datetime.datetime, exported: Path | None = None
) -> Recording:
    """Put the trace of a recording into the folder of its report; returns the recording that names it.

    exported: the trace that the recording was read from; without one a simulated timeline is written. What
    the disk does not take is noted in `unseen`, and the report lives on.
    """
    name = f"{worker}.{int(now.timestamp() * 1e9)}{SUFFIX}"
    try:
        if exported is not None:
            _copy(exported, folder / name)
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
    )


def kineto_properties(device: DeviceInfo) -> Mapping[str, Any]:
    """What is known of a device in the names of Kineto's `deviceProperties`."""
    found: dict[str, Any] = {}
    major, _, minor = str(device.details.get("capability", "")).partition(".")
    if major.isdigit() and minor.isdigit():
        found |= {"computeMajor": int(major), "computeMinor": int(minor)}
    if device.memory_bytes is not None:
        found["totalGlobalMem"] = device.memory_bytes
    if (processors := device.details.get("processors")) is not None:
        found["numSms"] = processors
    return found


def _copy(exported: Path, target: Path) -> None:
    """Compressed at level 1: five times faster than 9 for a file a quarter larger."""
    part = target.with_name(target.name + ".part")
    try:
        size = exported.stat().st_size
        if size > COPY_LIMIT:
            raise DiffprofError(
                f"{exported.name} has {size / 1e6:,.0f} MB and was not copied: it can be opened where it is"
            )
        with exported.open("rb") as source:
            zipped = source.read(2) == GZIP_MAGIC
            source.seek(0)
            with part.open("wb") if zipped else gzip.open(part, "wb", compresslevel=1) as file:
                shutil.copyfileobj(source, file, 1 << 20)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DiffprofError(
            f"The trace could not be written to {target}: {error.strerror or error}.",
            "Free some space or choose another folder.",
        ) from error
