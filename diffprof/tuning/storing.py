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
from diffprof.scanning.storing import store

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
    which: int = 0,
) -> Report:
    """Store the scan after the fixes in a folder of its own, and the report with its outcomes in the run's
    folder, with the source of `optimized.py`, if there is one, and the pictures; returns that report.

    which: the pipeline that was fixed, counted from 0; the files of another than the first have its number.
    Raises DiffprofError when the disk does not take it.
    """
    if after is not None:
        stored = store(after, traces, now=now)
        assert stored.path is not None
        one = replace(report.each[which], after=Path(stored.path).name)
        report = report.with_pipeline(which, replace(one, path=report.path))
    if report.path is None:
        return store(report, traces, now=now)
    folder = Path(report.path)
    report = save_report(report, folder)
    beside = dict(pictures or {})
    if optimized:
        beside[OPTIMIZED] = optimized.encode()
    for name in dict.fromkeys((BEFORE, AFTER, *beside)):
        file = folder / numbered(name, which)
        try:
            if name in beside:
                write_whole(file, beside[name])
            else:  # of an earlier try
                file.unlink(missing_ok=True)
        except OSError as error:
            raise DiffprofError(
                f"{file} could not be written: {error.strerror or error}.",
                "Free some space, or copy the run's folder to where you may write.",
            ) from error
    return report


def numbered(name: str, which: int) -> str:
    """A file's name, of another pipeline than the first with its number: `optimized_2.py`."""
    return f"_{which + 1}.".join(name.rsplit(".", 1)) if which else name
