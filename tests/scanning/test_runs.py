from __future__ import annotations

import datetime
import errno
import os
from pathlib import Path

import pytest

from diffprof.model import runs
from diffprof.model.errors import DiffprofError, UsageError
from diffprof.scanning import storing
from tests import builders

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    return tmp_path / "traces"


def store(traces: Path, *, seconds: int = 0) -> Path:
    report = storing.store(
        builders.one_of_everything(), traces, now=NOW + datetime.timedelta(seconds=seconds)
    )
    assert report.path
    return Path(report.path)


def test_names_are_utc_time_and_target_and_never_taken_twice(traces: Path) -> None:
    eastern = NOW.astimezone(datetime.timezone(datetime.timedelta(hours=5)))
    names = [runs.new_folder(traces, "a/b:c", now=now).name for now in (NOW, eastern, NOW)]
    assert names == ["20260102-030405-a-b-c", "20260102-030405-a-b-c-2", "20260102-030405-a-b-c-3"]


def test_newest_first_also_within_a_second(traces: Path) -> None:
    second = store(traces, seconds=1)
    first = store(traces)
    third = store(traces, seconds=1)
    for age, folder in enumerate([first, second, third]):
        os.utime(folder / "report.json", (age, age))
    assert runs.folders(traces) == [third, second, first]
    assert runs.find(traces) == third


def test_a_folder_with_a_name_of_its_own_is_placed_by_its_files_time(traces: Path) -> None:
    stored = store(traces)
    named = stored.rename(traces / "before")
    os.utime(named / "report.json", (0, 0))
    newer = store(traces)
    assert runs.folders(traces) == [newer, named]


def test_listing(traces: Path) -> None:
    store(traces)
    (traces / "no-run").mkdir(parents=True)
    damaged = traces / "20250101-000000-x"
    damaged.mkdir()
    (damaged / "report.json").write_text('{"schema": 1, "recording"')
    good, bad = runs.list_runs(traces)
    assert (good.target, good.device, good.findings, good.in_loop) == ("sdxl", "sim:a100-80gb", 4, 2)
    assert good.created == "2026-01-02T03:04:05+00:00"
    assert not good.partial
    assert good.error is None
    assert bad.name == damaged.name
    assert bad.findings is None
    assert bad.error
    assert list(runs.list_runs(traces / "nowhere")) == []


def test_find_by_path_name_and_part(traces: Path) -> None:
    first, second = store(traces), store(traces, seconds=3600)
    assert runs.find(traces, str(first)) == first
    assert runs.find(traces, str(first / "report.json")) == first / "report.json"
    assert runs.find(traces, first.name) == first
    assert runs.find(traces, "20260102-0304") == first
    assert runs.find(traces, "040405") == second


def test_a_target_is_its_newest_run(traces: Path) -> None:
    store(traces)
    store(traces, seconds=1)
    newest = store(traces, seconds=1)
    assert newest.name == "20260102-030406-sdxl-2"
    other = traces / "20260102-050505-tiny-sdxl"
    newest.parent.joinpath("20260102-030405-sdxl").rename(other)
    assert runs.find(traces, "sdxl") == newest
    assert runs.find(traces, "tiny-sdxl") == other


def test_find_in_a_folder_below(traces: Path) -> None:
    folder = store(traces / "samples")
    assert runs.find(traces, f"samples/{folder.name}") == traces / "samples" / folder.name
    with pytest.raises(UsageError, match="No run is stored"):
        runs.find(traces)


def test_find_refuses_none_several_and_unknown(traces: Path) -> None:
    with pytest.raises(UsageError, match="No run is stored in") as none:
        runs.find(traces)
    assert "diffprof scan" in none.value.hint
    first = store(traces)
    store(traces, seconds=1)
    with pytest.raises(UsageError, match="2 runs match 'sdx': 20260102-030406-sdxl, 20260102-030405-sdxl"):
        runs.find(traces, "sdx")
    with pytest.raises(UsageError, match="There is no run") as unknown:
        runs.find(traces, first.name.replace("sdxl", "sdlx"))
    assert first.name in unknown.value.hint


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "traces"
    file.write_text("x")
    for place in (file, file / "deeper"):
        with pytest.raises(UsageError, match="is a file"):
            runs.folders(place)
    with pytest.raises(DiffprofError, match="No folder for the run could be made"):
        runs.new_folder(file, "sdxl", now=NOW)


def test_a_folder_that_can_not_be_written_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.os, "access", lambda path, mode: False)
    runs.need_folder(tmp_path / "new")
    with pytest.raises(UsageError, match=f"{tmp_path} can't be written to") as refused:
        runs.need_folder(tmp_path / "new", written=True)
    assert "--traces" in refused.value.hint


def test_a_full_disk_leaves_no_empty_folder(traces: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffprofError, match="No space left"):
        store(traces)
    assert list(traces.iterdir()) == []
