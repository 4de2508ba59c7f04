"""Damaged and hostile reports through every command: an answer or one clear error, never a bug, a hang, or an
output in which the report acts. `python -m tests.cli.test_mutated_reports FIRST LAST` tries more of them."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from diffprof.cli.app import app
from diffprof.model.report import REPORT_FILE, save_report, to_json
from diffprof.views import FORMATS
from tests.mutations import CANARY, mutated
from tests.views.tui import reports

SECONDS_A_MEGABYTE = 10.0
SHORT = 4
"""Tried with the suite; the slow form tries the others of five hundred."""


def commands(good: Path, bad: Path) -> Iterator[list[str]]:
    run, other = str(bad), str(good)
    yield from (["show", run, "--format", form] for form in FORMATS)
    yield from (["show", run, "--redact", "--format", form] for form in FORMATS)
    yield ["show", run, "-v"]
    yield from (["fix", run, "--format", form] for form in ("text", "json", "markdown"))
    yield ["fix", run, "--lossy", "--goal", "memory"]
    yield ["compare", run, other]
    yield from (["compare", other, run, "--format", form] for form in ("json", "markdown", "github"))
    yield ["baseline", run]
    runs = ["runs", "--traces", str(bad.parent), "--format"]
    yield from ([*runs, form] for form in ("text", "json", "markdown"))
    yield ["tensorboard", run, "--no-serve"]
    yield ["fix", run, "--apply"]


def whole() -> bytes:
    """A report with every section that a view draws."""
    return to_json(reports.full())


def acts(command: list[str], result: Result) -> str:
    """What in the output would be taken for more than text; empty where nothing is."""
    out = result.stdout
    if "\x1b" in out or "\x07" in out or "\u202e" in out or "\x00" in out:
        return "a control character"
    if "html" in command and re.search(rf"<img[^>]*{CANARY}", out):
        return "an element of a page"
    if re.search(rf"^\s*::error::{CANARY}", out, re.M):
        return "a command of a CI log"
    if re.search(rf"^\| {CANARY}", out, re.M) and "json" not in command:
        return "a row of a table"
    return ""


def tried(folder: Path, good: Path, data: bytes) -> list[str]:
    """What went wrong with one report."""
    wrong = []
    (folder / REPORT_FILE).write_bytes(data)
    for command in commands(good, folder):
        begun = time.process_time()
        result = CliRunner().invoke(app, command, prog_name="diffprof")
        took = time.process_time() - begun
        if result.exit_code not in (0, 1, 2, 3) or (result.exception and not _ended(result)):
            wrong.append(f"{' '.join(command)}: exit {result.exit_code}: {result.stderr[:300]!r}")
        if took > SECONDS_A_MEGABYTE * max(1.0, len(data) / 1e6):
            wrong.append(f"{' '.join(command)}: {took:.0f} s for {len(data) / 1e6:.1f} MB")
        if act := acts(command, result):
            wrong.append(f"{' '.join(command)}: {act} in its output")
    return [*wrong, *viewed(folder)]


def _ended(result: Result) -> bool:
    return isinstance(result.exception, SystemExit)


def viewed(folder: Path) -> list[str]:
    """The same in the viewer, every tab."""
    from diffprof.judge.judging import load_judged
    from diffprof.model.errors import DiffprofError
    from diffprof.views.tui.app import Viewer

    try:
        report = load_judged(folder)
    except DiffprofError:
        return []

    async def look() -> None:
        async with Viewer(report, folder.parent).run_test(size=(120, 40)) as pilot:
            for tab in "12345678":
                await pilot.press(tab)
                await pilot.pause()
            await pilot.press("1", "enter", "escape")

    try:
        asyncio.run(look())
    except Exception as error:
        return [f"view: {type(error).__name__}: {str(error)[:300]}"]
    return []


def all_tried(folder: Path, seeds: range) -> list[str]:
    good, bad = folder / "good" / "20260102-030405-good", folder / "bad" / "20260102-030405-bad"
    save_report(reports.full(), good)
    bad.mkdir(parents=True)
    text, wrong = whole(), []
    for seed in seeds:
        wrong += [f"{seed}: {each}" for each in tried(bad, good, mutated(text, seed))]
        for file in bad.iterdir():
            if file.is_file():
                file.unlink()
    return wrong


def test_mutations_are_the_same_every_time_and_most_are_read() -> None:
    text = whole()
    assert [mutated(text, seed) for seed in range(5)] == [mutated(text, seed) for seed in range(5)]
    assert len({mutated(text, seed) for seed in range(40)}) == 40


def test_the_report_as_it_is_goes_through_every_command(tmp_path: Path) -> None:
    good = tmp_path / "good" / "20260102-030405-good"
    save_report(reports.full(), good)
    for command in commands(good, good):
        assert CliRunner().invoke(app, command).exit_code == (2 if "--apply" in command else 0), command


@pytest.mark.slow
def test_mutated_reports(tmp_path: Path) -> None:
    assert all_tried(tmp_path, range(SHORT)) == []


@pytest.mark.nightly
def test_many_mutated_reports(tmp_path: Path) -> None:
    assert all_tried(tmp_path, range(SHORT, 500)) == []


if __name__ == "__main__":
    import tempfile

    os.environ["TEXTUAL_ANIMATIONS"] = "none"
    with tempfile.TemporaryDirectory() as place:
        found = all_tried(Path(place), range(int(sys.argv[1]), int(sys.argv[2])))
    print("\n".join(found) or "nothing")
    sys.exit(bool(found))
