"""The page of differences: the runs it starts with, and operators beside their own kind."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from diffprof.model.report import save_report
from diffprof.views.tensorboard.profiler.pair import aligned, newest_first, pair
from tests import builders


def stored(folder: Path, name: str, day: int, *, target: str = "sdxl", after: str | None = None) -> None:
    recording = builders.make_recording()
    recording = replace(
        recording,
        created=f"2026-01-{day:02d}T00:00:00+00:00",
        target=replace(recording.target, spec=target),
    )
    save_report(replace(builders.make_report(recording=recording), after=after), folder / name)


def runs(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}


def test_a_run_and_the_scan_after_its_fixes_come_first(tmp_path: Path) -> None:
    stored(tmp_path, "old", 1, after="old-fixed")
    stored(tmp_path, "old-fixed", 2)
    stored(tmp_path, "before", 3, after="fixed")
    stored(tmp_path, "fixed", 4)
    stored(tmp_path, "newest", 5)
    assert newest_first(runs(tmp_path)) == ["newest", "fixed", "before", "old-fixed", "old"]
    assert pair(runs(tmp_path)) == ("before", "fixed")


def test_through_links_as_well(tmp_path: Path) -> None:
    stored(tmp_path / "runs", "before", 1, after="fixed")
    stored(tmp_path / "runs", "fixed", 2)
    links = tmp_path / "links"
    links.mkdir()
    for name in ("before", "fixed"):
        (links / f"{name}-2").symlink_to(tmp_path / "runs" / name)
    assert pair(runs(links)) == ("before-2", "fixed-2")


@pytest.mark.parametrize("after", ["gone", "..", "../other", "/", "a\0b", "before"])
def test_else_two_of_the_same_target(tmp_path: Path, after: str) -> None:
    stored(tmp_path, "first", 1, target="sd15")
    stored(tmp_path, "before", 2, target="sd15", after=after)
    stored(tmp_path, "other", 3)
    assert pair(runs(tmp_path)) == ("first", "before")


def test_else_the_newest_two(tmp_path: Path) -> None:
    stored(tmp_path, "one", 1, target="a")
    assert pair(runs(tmp_path)) is None
    stored(tmp_path, "two", 2, target="b")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "report.json").write_text("{")
    assert pair(runs(tmp_path)) == ("one", "two")


def test_operators_stand_beside_their_own_kind() -> None:
    def row(name: str, calls: int) -> dict[str, object]:
        return {"name": name, "calls": calls, "host_duration": 10 * calls}

    node = {
        "left": {"name": "unet", "aggs": [row("linear", 3), row("mul", 2)]},
        "right": {"name": "unet", "aggs": [row("mul", 1), row("cat", 4)]},
        "path": "0",
        "children": [{"left": {"aggs": [row("mul", 2)]}, "right": {"aggs": []}, "path": "0-0"}],
    }
    found = aligned(node)
    names = ["linear", "mul", "cat"]
    assert [each["name"] for each in found["left"]["aggs"]] == names
    assert [each["name"] for each in found["right"]["aggs"]] == names
    assert [each["calls"] for each in found["left"]["aggs"]] == [3, 2, 0]
    assert [each["calls"] for each in found["right"]["aggs"]] == [0, 1, 4]
    assert found["left"]["name"] == "unet"
    assert found["children"][0]["right"]["aggs"] == [{"name": "mul", "calls": 0, "host_duration": 0}]
