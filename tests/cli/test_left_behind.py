"""Files that are whole or not there, and what is left where a writer was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from diffprof.model import runs
from diffprof.model.recording.whole_file import PART, whole_file, write_whole, writer_of
from diffprof.model.report import save_report
from diffprof.scanning.storing import store
from tests import builders
from tests.cli.conftest import Run


def test_what_is_written_is_there_once_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    place.write_bytes(b"before")
    with whole_file(place) as file:
        file.write(b"after")
        assert place.read_bytes() == b"before"
        (part,) = tmp_path.glob(f"*{PART}")
        assert writer_of(part.name) == os.getpid()
    assert place.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_writer_that_fails_leaves_the_place_as_it_was(tmp_path: Path, error: type[BaseException]) -> None:
    place = tmp_path / "a.json"
    place.write_bytes(b"before")

    def fail() -> None:
        with whole_file(place) as file:
            file.write(b"aft")
            raise error

    with pytest.raises(error):
        fail()
    assert place.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [place]


def test_it_is_synced_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "a.json"
    seen: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(place.exists()))
    write_whole(place, b"x")
    assert seen[0] is False, "the file, before"
    assert seen[1:] == [True], "the folder, after"


def test_many_writers_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    place = tmp_path / "a.json"
    texts = [bytes([65 + n]) * 200_000 for n in range(8)]
    threads = [threading.Thread(target=write_whole, args=(place, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.read_bytes() in texts
    assert list(tmp_path.iterdir()) == [place]


def test_a_name_that_is_no_part_has_no_writer() -> None:
    assert writer_of("report.json.4711-ab12cd34.part") == 4711
    assert writer_of("report.json") is None
    assert writer_of("report.json.part") is None


# --- what is left ----------------------------------------------------------------------------------------

_KILLED = """
import os, signal, sys
from pathlib import Path
import datetime
from diffprof.scanning import storing
from tests import builders
def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)
{where}
storing.store(builders.one_of_everything(), Path(sys.argv[1]), now=datetime.datetime.now(datetime.UTC))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("where", ["storing.save_report = killed", "os.fsync = killed"])
def test_what_a_killed_writer_left_is_listed_and_cleaned(tmp_path: Path, run: Run, where: str) -> None:
    traces = tmp_path / "traces"
    process = subprocess.run(
        [sys.executable, "-c", _KILLED.format(where=where), str(traces)], cwd=Path(__file__).parents[1]
    )
    assert process.returncode == -signal.SIGKILL
    (left,) = traces.iterdir()
    assert list(left.iterdir())
    save_report(builders.empty(), traces / "20260102-030405-whole")
    listed = run("runs")
    assert f"traces/{left.name} holds no report: a command that wrote it was ended." in listed.stderr
    assert "`diffprof runs --clean` removes that." in listed.stderr
    assert "whole" in listed.stdout
    assert f"removed traces/{left.name}" in run("runs", "--clean").stderr
    assert [folder.name for folder in traces.iterdir()] == ["20260102-030405-whole"]
    assert run("runs").stderr == ""


def test_what_somebody_writes_now_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "20260102-030405-sdxl"
    folder.mkdir()
    assert runs.leftovers(tmp_path) == [], "a folder that has just been made"
    (folder / f"writing.{os.getpid()}-0{PART}").touch()
    old = time.time() - 7_200
    os.utime(folder, (old, old))
    assert runs.leftovers(tmp_path) == [], "its writer lives"
    (folder / f"writing.{os.getpid()}-0{PART}").unlink()
    os.utime(folder, (old, old))
    assert [left.path for left in runs.leftovers(tmp_path)] == [folder]


def test_a_part_beside_a_report_is_listed_and_the_report_stays(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "traces" / "20260102-030405-sdxl"
    save_report(builders.empty(), folder)
    part = folder / f"trace.json.gz.999999999-ab{PART}"
    part.touch()
    assert f"traces/{folder.name}/{part.name} is not whole" in run("runs").stderr
    run("runs", "--clean")
    assert [file.name for file in folder.iterdir()] == ["report.json"]


def test_files_of_others_are_not_removed(tmp_path: Path, run: Run) -> None:
    folder = tmp_path / "traces" / "20260102-030405-sdxl"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    os.utime(folder, (0, 0))
    assert "files that are not diffprof's" in run("runs", "--clean").stderr
    assert (folder / "notes.txt").read_text() == "mine"


def test_two_stores_in_the_same_second_keep_both(tmp_path: Path) -> None:
    import datetime

    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    made: list[str | None] = []

    def one() -> None:
        made.append(store(builders.empty(), tmp_path, now=now).path)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 6
    assert len(list(runs.list_runs(tmp_path))) == 6
    assert all(each.error is None for each in runs.list_runs(tmp_path))
