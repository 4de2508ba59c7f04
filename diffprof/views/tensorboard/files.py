"""What TensorBoard finds in a run's folder: written once, and again when the run or diffprof has changed.

Names stay the same, so that nothing is ever there twice. The stock profiler plugin looks for
`*.pt.trace.json`; the trace here has another name, so that it stays out of the way.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from diffprof import __version__
from diffprof.judge.judging import judge_again
from diffprof.model.errors import UNREADABLE, DiffprofError
from diffprof.model.ladder import LADDER_FILE, Ladder, load_ladder
from diffprof.model.recording.whole_file import write_whole
from diffprof.model.redacting import without_home
from diffprof.model.report import REPORT_FILE, Report, load_report

if TYPE_CHECKING:
    from diffprof.views.tensorboard.picture import Picture

TRACE_FILE = "profile.diffprof.json.gz"
EVENT_FILE = "events.out.tfevents.diffprof"
MARKER_FILE = "tensorboard.json"
PICTURES = {"before": "before.png", "after": "after.png"}
"""What the pipeline made before and after the fixes, where `diffprof fix --apply` has left it."""

FORM = 13
"""Counts changes of what is written here, so that what an older diffprof wrote is replaced."""


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """What was written from what. key: digest of everything that it rests on; problem: why there is no trace
    though the recording names one."""

    key: str
    files: tuple[str, ...]
    problem: str | None = None


def prepare(folder: Path) -> bool:
    """Bring a run's files up to date; whether something had to be written.

    folder: holds a `report.json`, a `ladder.json` or both. Raises UsageError when they can't be read, and
    DiffprofError when the folder does not take the files.
    """
    ladder = load_ladder(folder)
    report = load_report(folder) if ladder is None or (folder / REPORT_FILE).is_file() else None
    after = _after(folder, report) if report is not None else None
    key = _digest(folder, report, after)
    old = marker_of(folder)
    if old is not None and old.key == key and all((folder / name).is_file() for name in old.files):
        return False
    files, problem = _contents(folder, report, ladder, after)
    try:
        for name in set(old.files if old else ()) - set(files):
            _remove(folder, name)
        for name, data in files.items():
            _replace(folder / PurePosixPath(name), data)
        marker = Marker(key=key, files=tuple(sorted(files)), problem=problem)
        _replace(folder / MARKER_FILE, msgspec.json.format(msgspec.json.encode(marker), indent=1) + b"\n")
    except OSError as error:
        raise DiffprofError(
            f"The files for TensorBoard could not be written to {folder}: {error.strerror or error}.",
            "Free some space, or copy the run to a folder that you may write to.",
        ) from error
    return True


def marker_of(folder: Path) -> Marker | None:
    """What `prepare` left in the folder, if it did."""
    with suppress(OSError, *UNREADABLE):
        return msgspec.json.decode((folder / MARKER_FILE).read_bytes(), type=Marker)
    return None


def run_folders(logdir: Path) -> list[Path]:
    """Every folder below (and that one itself) with a report or a ladder, newest first by name.

    Links are followed, each place once: runs that were named one by one are links to their folders.
    """
    found, seen = [], set()
    for at, below, names in os.walk(logdir, followlinks=True):
        place = os.path.realpath(at)
        if place in seen:
            below.clear()
            continue
        seen.add(place)
        if REPORT_FILE in names or LADDER_FILE in names:
            found.append(Path(at))
    return sorted(found, reverse=True)


def _contents(
    folder: Path, report: Report | None, ladder: Ladder | None, after: Report | None
) -> tuple[dict[str, bytes], str | None]:
    from diffprof.views.tensorboard.contents import RunContents, event_files, ladder_file

    if report is None:
        assert ladder is not None
        return {EVENT_FILE: ladder_file(ladder, (folder / LADDER_FILE).stat().st_mtime)}, None
    problem = trace = None
    try:
        from diffprof.views.tensorboard.trace import plugin_trace

        trace = plugin_trace(report.recording, folder)
    except (OSError, ValueError, EOFError) as error:
        problem = f"{report.recording.trace_file}: {error}"
    shown, then = without_home(judge_again(report)), without_home(judge_again(after)) if after else None
    run = RunContents(shown, ladder, then, _pictures(folder))
    files = {
        (f"{below}/{EVENT_FILE}" if below else EVENT_FILE): data for below, data in event_files(run).items()
    }
    if trace is not None:
        files[TRACE_FILE] = trace
    return files, problem


def _pictures(folder: Path) -> dict[str, Picture]:
    from PIL import Image

    from diffprof.views.tensorboard.picture import Picture

    found: dict[str, Picture] = {}
    for when, name in PICTURES.items():
        with suppress(OSError, ValueError):
            png = (folder / name).read_bytes()
            with Image.open(BytesIO(png)) as image:
                found[when] = Picture(png, image.size)
    return found


def _after(folder: Path, report: Report) -> Report | None:
    """The scan after the fixes. Its name is data: it may not lead elsewhere."""
    name = report.after
    if not name or name in (".", "..") or "/" in name or os.sep in name:
        return None
    with suppress(DiffprofError):
        return load_report(folder.parent / name)
    return None


def _digest(folder: Path, report: Report | None, after: Report | None) -> str:
    """Of every file that is read, and of the version that reads."""
    files = [folder / REPORT_FILE, folder / LADDER_FILE, *(folder / name for name in PICTURES.values())]
    if report is not None and report.recording.trace_file is not None:
        files.append(folder / report.recording.trace_file)
    if after is not None and after.path is not None:
        files.append(Path(after.path) / REPORT_FILE)
    digest = hashlib.sha256(f"{FORM} {__version__}".encode())
    for file in files:
        digest.update(b"\0" + file.name.encode("utf-8", "surrogateescape") + b"\0")
        with suppress(OSError), file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _remove(folder: Path, name: str) -> None:
    """A file that an earlier version of the run had; the names in a marker are data."""
    path = PurePosixPath(name)
    if path.name not in (EVENT_FILE, TRACE_FILE) or path.is_absolute() or ".." in path.parts:
        return
    (folder / path).unlink(missing_ok=True)
    if len(path.parts) > 1:
        with suppress(OSError):
            (folder / path).parent.rmdir()


def _replace(path: Path, data: bytes) -> None:
    """Two TensorBoards may do this at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
