"""The folder of stored runs: one folder each, `<UTC time>-<target>`, with a `report.json` and the trace of
what it tells. What is there is listed, found and removed; `scanning/storing.py` writes."""

from __future__ import annotations

import datetime
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

import msgspec

from diffprof.model.errors import UNREADABLE, DiffprofError, UsageError
from diffprof.model.fitting import FIT_FILE, load_fit
from diffprof.model.ladder import LADDER_FILE, load_ladder
from diffprof.model.prediction import PREDICTION_FILE, load_predictions
from diffprof.model.recording.whole_file import PART, writer_of
from diffprof.model.report import REPORT_FILE, slug

TRACES = Path("traces")
"""Where runs are stored unless told otherwise."""
TRACE_SUFFIX = ".json.gz"
WRITING = "writing"
"""Marks the folder of a run that is being stored, with the number of the process that does it."""
_SOON_S, _LONG_S = 60.0, 3600.0
"""Seconds after which what nobody is seen to write counts as left: with and without a number of a process."""
_ALONE = {LADDER_FILE: load_ladder, PREDICTION_FILE: load_predictions, FIT_FILE: load_fit}
"""Results that stand without a report."""
_STAMP = "%Y%m%d-%H%M%S"
_NAME = re.compile(r"(\d{8}-\d{6})-")


class _Target(msgspec.Struct):
    spec: str
    pipeline: str = ""
    fixed: tuple[str, ...] = ()


class _Device(msgspec.Struct):
    spec: str
    grade: str = ""


class _Recording(msgspec.Struct):
    target: _Target
    device: _Device
    created: str
    partial: bool = False


class _Finding(msgspec.Struct):
    rule: str
    in_loop: bool = False


class _Header(msgspec.Struct):
    """What a list of runs needs; everything else in the file is skipped unread."""

    schema: int
    recording: _Recording
    findings: tuple[_Finding, ...] = ()


class StoredRun(msgspec.Struct, frozen=True):
    """One line of the list of runs. Findings are counted as judged when stored.

    error: why the report can't be read; the other fields are then empty.
    """

    name: str
    folder: Path
    target: str = ""
    device: str = ""
    created: str = ""
    findings: int | None = None
    in_loop: int | None = None
    partial: bool = False
    fixed: bool = False
    """A scan of a pipeline after its fixes."""
    alone: str = ""
    """What stands there without a report: ladder (predicted or measured), prediction or fit."""
    error: str | None = None


def need_folder(traces: Path, *, written: bool = False) -> None:
    """Whether runs can be there. written: and whether new ones can be stored, or the folder be made.

    Raises UsageError.
    """
    for place in (traces, *traces.absolute().parents):
        if place.is_dir():
            if written and not os.access(place, os.W_OK | os.X_OK):
                raise UsageError(f"{place} can't be written to.", "Choose another folder with --traces.")
            return
        if place.exists():
            raise UsageError(f"{place} is a file.", "Name the folder that holds the runs with --traces.")


def folders(traces: Path) -> list[Path]:
    """The folders that hold a report, newest first: by the time in the name, else the file's.

    Raises UsageError when traces is a file.
    """
    return _holding(traces, REPORT_FILE)


def _holding(traces: Path, name: str) -> list[Path]:
    need_folder(traces)
    try:
        found = [path.parent for path in traces.glob(f"*/{name}")]
    except OSError as error:
        raise UsageError(
            f"{traces} can't be read: {error.strerror or error}.", "Choose another folder with --traces."
        ) from error
    return sorted(found, key=_when, reverse=True)


def _when(folder: Path) -> tuple[str, int, str]:
    """Sorts by UTC second, then by the number that a second run in one second got, then by name."""
    modified = 0
    for name in (*_ALONE, REPORT_FILE):
        with suppress(OSError):
            modified = (folder / name).stat().st_mtime_ns
    named = _NAME.match(folder.name)
    stamp = (
        named.group(1)
        if named
        else datetime.datetime.fromtimestamp(modified / 1e9, datetime.UTC).strftime(_STAMP)
    )
    return stamp, modified, folder.name


def list_runs(traces: Path) -> Iterator[StoredRun]:
    """Every stored run, newest first; damaged ones with their error."""
    for folder in folders(traces):
        try:
            header = msgspec.json.decode((folder / REPORT_FILE).read_bytes(), type=_Header)
        except (OSError, *UNREADABLE) as error:
            yield StoredRun(folder.name, folder, error=str(error))
            continue
        recording = header.recording
        yield StoredRun(
            folder.name,
            folder,
            target=recording.target.spec,
            device=recording.device.spec,
            created=recording.created,
            findings=len(header.findings),
            in_loop=sum(finding.in_loop for finding in header.findings),
            partial=recording.partial,
            fixed=bool(recording.target.fixed),
        )


def list_stored(traces: Path) -> list[StoredRun]:
    """Every stored run, and every result that stands without a report, newest first."""
    alone = [
        _alone(folder, file)
        for file in _ALONE
        for folder in _holding(traces, file)
        if not (folder / REPORT_FILE).is_file()
    ]
    return sorted([*list_runs(traces), *alone], key=lambda run: _when(run.folder), reverse=True)


def _alone(folder: Path, file: str) -> StoredRun:
    kind = file.removesuffix(".json")
    try:
        found = _ALONE[file](folder)
    except UsageError as error:
        return StoredRun(folder.name, folder, error=error.what, alone=kind)
    made = datetime.datetime.strptime(_when(folder)[0], _STAMP).replace(tzinfo=datetime.UTC)
    target, device = (found.target, found.device) if found else ("", "")
    return StoredRun(folder.name, folder, target=target, device=device, created=made.isoformat(), alone=kind)


class Leftover(msgspec.Struct, frozen=True):
    """What a command that was killed has left: a folder without a report, or a file that is not whole."""

    path: Path
    files: tuple[Path, ...]
    """All that it holds, or itself."""
    foreign: bool = False
    """It holds what is not of diffprof's making, and is not removed."""


def leftovers(traces: Path) -> list[Leftover]:
    """What nobody writes any more and no run is made of."""
    need_folder(traces)
    if not traces.is_dir():
        return []
    found = [_unfinished(folder) for folder in sorted(traces.iterdir()) if _NAME.match(folder.name)]
    return [each for folder in found for each in folder if not _being_written(each)]


def _unfinished(folder: Path) -> list[Leftover]:
    if not folder.is_dir() or folder.is_symlink():
        return []
    files = tuple(sorted(folder.iterdir()))
    if any(file.name in (REPORT_FILE, *_ALONE) for file in files):
        return [Leftover(file, (file,)) for file in files if file.name.endswith(PART)]
    ours = (PART, TRACE_SUFFIX, WRITING)
    return [Leftover(folder, files, foreign=not all(file.name.endswith(ours) for file in files))]


def _being_written(left: Leftover) -> bool:
    """Whether a process that lives has begun it, or, where that can't be told, it is a minute old at most."""
    writers = [pid for file in left.files if (pid := writer_of(file.name)) is not None]
    if writers and hasattr(os, "getuid"):
        return any(map(_lives, writers))
    try:
        age = time.time() - left.path.stat().st_mtime
    except OSError:
        return True  # it went meanwhile
    return age < (_SOON_S if not writers else _LONG_S)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def remove(left: Leftover) -> bool:
    """Take a leftover away; whether it is gone. One with foreign files stays."""
    if left.foreign:
        return False
    with suppress(OSError):
        for file in left.files:
            file.unlink(missing_ok=True)
        if left.path.is_dir():
            left.path.rmdir()
    return not left.path.exists()


class NoSuchRun(UsageError):
    """Nothing stored has that name."""


def find(traces: Path, key: str | None = None) -> Path:
    """The folder (or report file) of a run: by path, by name, by its target, of which the newest is meant, or
    by any part of a name that only one has.

    Without key, the newest of all. Raises UsageError when there is none or several.
    """
    if key is not None:
        for path in (Path(key), traces / key):
            if path.is_file() or (path / REPORT_FILE).is_file():
                return path
    known = folders(traces)
    if key is None:
        if known:
            return known[0]
        raise UsageError(
            f"No run is stored in {traces}.",
            "Make one with `diffprof scan TARGET`, or name its folder with --traces.",
        )
    names = {folder.name: folder for folder in known}
    for name in names:
        # A second run in one second has a number.
        first = name if (base := re.sub(r"-\d+$", "", name)) not in names else base
        if (named := _NAME.match(first)) and first[named.end() :] == slug(key):
            return names[name]
    for match in (str.startswith, str.__contains__):
        hits = [name for name in names if match(name, key)]
        if len(hits) == 1:
            return names[hits[0]]
        if hits:
            shown = ", ".join(hits[:5]) + (", ..." if len(hits) > 5 else "")
            raise UsageError(f"{len(hits)} runs match {key!r}: {shown}.", "Name more of it.")
    near = get_close_matches(key, names, n=3, cutoff=0.4)
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    raise NoSuchRun(
        f"There is no run {key!r} in {traces}, and no report at that path.",
        f"{hint}`diffprof runs` lists the stored ones.",
    )


def new_folder(traces: Path, target: str, *, now: datetime.datetime) -> Path:
    """Make the folder of a new run. A name that is taken gets a number.

    Raises DiffprofError when it can't be made.
    """
    name = f"{now.astimezone(datetime.UTC).strftime(_STAMP)}-{slug(target)}"
    try:
        traces.mkdir(parents=True, exist_ok=True)
        for number in range(1, 10_000):
            folder = traces / (name if number == 1 else f"{name}-{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise DiffprofError(
            f"No folder for the run could be made in {traces}: {error.strerror or error}.",
            "Choose another folder with --traces.",
        ) from error
    raise DiffprofError(f"{traces} already holds 9,999 runs named {name}.", "Choose another folder.")
