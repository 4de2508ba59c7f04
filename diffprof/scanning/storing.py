"""Stores a scan's report in a folder of its own, the trace of what it tells beside it."""

from __future__ import annotations

import datetime
import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec

from diffprof.model.recording.whole_file import PART
from diffprof.model.report import Report, save_report, slug
from diffprof.model.runs import WRITING, new_folder


def store(
    report: Report,
    traces: Path,
    *,
    now: datetime.datetime,
    trace: Path | None = None,
    imported: bool = False,
) -> Report:
    """Save a report in a new folder; returns it with its path. Its trace comes beside it: `trace`, if it was
    read from one, or else that of a simulated timeline. imported: `trace` is no scan's own.

    Raises DiffprofError when the disk does not take it; nothing is left then.
    """
    from diffprof.chrome_trace.storing import store_trace  # numpy

    recording = report.recording
    folder = new_folder(traces, recording.target.spec, now=now)
    writing = folder / f"{WRITING}.{os.getpid()}-0{PART}"
    worker = slug(f"{recording.target.spec}-{recording.device.spec}")
    try:
        with suppress(OSError):
            writing.touch()
        recording = store_trace(recording, folder, worker=worker, now=now, exported=trace, imported=imported)
        return save_report(msgspec.structs.replace(report, recording=recording), folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        with suppress(OSError):
            writing.unlink(missing_ok=True)
