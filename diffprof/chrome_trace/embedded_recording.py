"""The recording of a scan inside the trace that lies beside its report.

Events can't hold all of what was recorded: the CPU's time to a nanosecond, who owns a tensor that is copied,
what another setup would cost. So the trace of a scan carries the recording that belongs to it, after its
events, and whoever imports the file reads the figures that the scan printed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
from msgspec.structs import replace

from diffprof.model.recording import SCHEMA, KernelRow, Recording, Unseen
from diffprof.model.recording.invariants import broken
from diffprof.model.report import as_bytes

KEY = "diffprofRecording"
"""Beside `traceEvents`; readers of Kineto traces pass over keys that they don't know."""

ROUNDED_US = 1.0
"""The most that a kernel's length changes where a simulated timeline is drawn: either edge is rounded."""


class _Embedded(msgspec.Struct):
    schema: int
    recording: Recording


def member(recording: Recording) -> bytes:
    """`"diffprofRecording":{...}`, to be put into the trace's object."""
    return b'"%s":%s' % (KEY.encode(), as_bytes(_Embedded(SCHEMA, recording)))


def recording_in(
    meta: Mapping[str, object], kernels: Iterable[KernelRow] | None
) -> tuple[Recording | None, tuple[Unseen, ...]]:
    """(the recording that a trace carries, what to say of it).

    meta: everything beside the events. kernels: as the events tell them. No recording where the trace carries
    none, where a newer diffprof wrote it, or where its events are not those of the recording any more: they
    were cut or filtered, and are what is to be looked at then.
    """
    if KEY not in meta:
        return None, ()

    def unread(why: str) -> tuple[None, tuple[Unseen, ...]]:
        return None, (Unseen(what="what its scan recorded beside the events of this trace", why=why),)

    held = meta[KEY]
    schema = held.get("schema") if isinstance(held, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        return unread(f"a newer diffprof wrote it (schema {schema}, this one reads up to {SCHEMA})")
    try:
        recording = msgspec.convert(held, _Embedded).recording
    except msgspec.ValidationError as error:
        return unread(f"it is damaged: {error}")
    if fault := broken(recording):
        return unread(f"it is damaged: {fault}")
    scanned, seen = _sum(recording.kernels or ()), _sum(kernels or ())
    if scanned[0] != seen[0] or abs(scanned[1] - seen[1]) > ROUNDED_US * max(1, seen[0]):
        return unread(
            f"its {scanned[0]:,} kernels of {scanned[1] / 1e3:,.3f} ms are not those of the events, "
            f"{seen[0]:,} of {seen[1] / 1e3:,.3f} ms: the trace was changed since"
        )
    note = Unseen(
        what="the figures of this report",
        why="they are those of the scan that wrote the trace, which carries its recording",
        kind="note",
    )
    return replace(recording, trace_file=None, unseen=(*recording.unseen, note)), ()


def _sum(rows: Iterable[KernelRow]) -> tuple[int, float]:
    """(kernels, their time in microseconds)."""
    found = list(rows)
    return sum(row.count for row in found), sum(row.device_us for row in found)
