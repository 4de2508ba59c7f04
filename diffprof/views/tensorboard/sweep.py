"""A sweep as TensorBoard's hparams: a run a row, its settings beside its figures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from diffprof.judge.frontier import best
from diffprof.model.errors import UsageError
from diffprof.model.recording.whole_file import write_whole
from diffprof.model.report import slug
from diffprof.model.sweep import OK, SweepRow
from diffprof.views.tensorboard.event_file import EventFile
from diffprof.views.tensorboard.files import EVENT_FILE

MOST = 1000
"""Rows that are written: TensorBoard opens a folder for each. Those on a frontier come first."""

HPARAMS = ("target", "device", "mode", "batch", "steps", "size", "scheduler", "fixes", "frontier")
METRICS = {
    "sweep (simulated)/seconds": "seconds",
    "sweep (simulated)/seconds an image": "s/image",
    "sweep (simulated)/cost of 1,000 images": "for 1,000",
    "sweep (simulated)/peak memory, GiB": "GiB",
    "sweep (simulated)/waits": "waits",
}


def write_sweep(rows: Sequence[SweepRow], folder: Path) -> int:
    """Event files for the rows that have a time; how many. Raises UsageError where they can't be written."""
    kept = {row.key for row in best(rows)}
    timed = sorted((row for row in rows if row.status == OK), key=lambda row: row.key not in kept)[:MOST]
    columns = EventFile(max(map(_seconds, timed), default=0.0))
    columns.hparams_columns(HPARAMS, METRICS)
    files = {folder / EVENT_FILE: columns.data()}
    for row in timed:
        name = slug(f"{row.target} {row.device} {row.mode} batch {row.batch}")
        files[folder / f"{name}-{row.key}" / EVENT_FILE] = row_file(row, on_frontier=row.key in kept)
    try:
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
    except OSError as error:
        raise UsageError(
            f"{folder} can't be written to: {error.strerror or error}.", "Name another folder."
        ) from error
    return len(timed)


def row_file(row: SweepRow, *, on_frontier: bool) -> bytes:
    """The event file of one row."""
    file = EventFile(_seconds(row))
    settings = {name: getattr(row, name) for name in HPARAMS[:-1]}
    given = {name: value for name, value in settings.items() if value not in ("", None)}
    file.hparams_row(row.key, {**given, "frontier": on_frontier})
    figures = (row.seconds, row.seconds_per_image, row.per_thousand, row.peak_gib, row.waits)
    for tag, value in zip(METRICS, figures, strict=True):
        if value is not None:
            file.scalar(tag, float(value))
    return file.data()


def _seconds(row: SweepRow) -> float:
    try:
        return datetime.datetime.fromisoformat(row.created).timestamp()
    except ValueError:
        return 0.0
