"""Where the results of tuning go: the run's own report, the scan after it as a run of its own, and
`optimized.py`. Needs no torch."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from diffprof.model.errors import DiffprofError
from diffprof.model.recording.whole_file import write_whole
from diffprof.model.report import Report, save_report
from diffprof.scanning.runs import store

OPTIMIZED = "optimized.py"
BEFORE, AFTER = "before.png", "after.png"
"""Pictures in the run's folder; `diffprof tensorboard` shows them side by side."""


def store_tuned(
    report: Report,
    after: Report | None,
    traces: Path,
    *,
    now: datetime.datetime,
    pictures: Mapping[str, bytes] | None = None,
    optimized: str = "",
) -> Report:
    """Store the scan after the fixes in a folder of its own, and the report with its outcomes in the run's
    folder, with the source of `optimized.py`, if there is one, and the pictures; returns that report.

    Raises DiffprofError when the disk does not take it.
    """
    if after is not None:
        stored = store(after, traces, now=now)
        assert stored.path is not None
        report = replace(report, after=Path(stored.path).name)
    if report.path is None:
        return store(report, traces, now=now)
    folder = Path(report.path)
    report = save_report(report, folder)
    beside = dict(pictures or {})
    if optimized:
        beside[OPTIMIZED] = optimized.encode()
    for name in dict.fromkeys((BEFORE, AFTER, *beside)):
        try:
            if name in beside:
                write_whole(folder / name, beside[name])
            else:  # of an earlier try
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise DiffprofError(
                f"{folder / name} could not be written: {error.strerror or error}.",
                "Free some space, or copy the run's folder to where you may write.",
            ) from error
    return report
