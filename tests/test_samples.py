"""The recorded runs of a clone: readable, explained, without traces of the machine they were made on."""

from __future__ import annotations

import gzip
import re
import socket
from pathlib import Path

import msgspec
import pytest

from diffprof.chrome_trace.storing import SUFFIX
from diffprof.judge.judging import make_report
from diffprof.model.ladder import LADDER_FILE, load_ladder
from diffprof.model.report import REPORT_FILE, load_report
from diffprof.views import FORMATS, render
from diffprof.views.tensorboard.trace import plugin_trace
from tests.samples import FOLDER, MAKERS, NAMES

REPORTS = sorted(file.parent for file in FOLDER.glob(f"*/{REPORT_FILE}"))
STORED = [*REPORTS, *(file.parent for file in FOLDER.glob(f"*/{LADDER_FILE}"))]
PATH = re.compile(rb'"(?:/|~|[A-Za-z]:\\\\)[^"\s]*')
"""An absolute path at the start of a string; `/` alone may begin prose."""


def test_all_that_can_be_made_are_there() -> None:
    assert {folder.name for folder in STORED} == {*MAKERS, *NAMES}


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_loads_and_is_judged_alike_by_the_rules_of_this_version(folder: Path) -> None:
    report = load_report(folder)
    again = make_report(report.recording)
    assert [f.rule for f in again.findings] == [f.rule for f in report.findings]
    assert report.recording.environment.packages["torch"]
    for form in FORMATS:
        assert render(report, form)


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_is_small_and_names_no_machine(folder: Path) -> None:
    for file in (folder / REPORT_FILE, folder / LADDER_FILE):
        if not file.is_file():
            continue
        data = file.read_bytes()
        assert len(data) < 900_000
        _names_no_machine(data)
    for file in folder.glob(f"*{SUFFIX}"):
        assert file.stat().st_size < 400_000
        _names_no_machine(gzip.decompress(file.read_bytes()))


def _names_no_machine(data: bytes) -> None:
    assert not PATH.findall(data)
    assert b"host_name" not in data
    assert socket.gethostname().encode() not in data or socket.gethostname() == "localhost"


def test_the_measured_one_has_its_trace() -> None:
    folder = FOLDER / "tiny-sdxl-cpu"
    recording = load_report(folder).recording
    data = plugin_trace(recording, folder)
    assert data is not None
    events = msgspec.json.decode(gzip.decompress(data))["traceEvents"]
    operators = [event for event in events if event.get("cat") == "cpu_op"]
    assert sum("Call stack" in event["args"] for event in operators) > 1_000
    steps = [event["name"] for event in events if str(event.get("name")).startswith("ProfilerStep#")]
    assert steps == [f"ProfilerStep#{step}" for step in range(recording.target.steps or 0)]
    assert len(steps) == 3


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_has_its_provenance(folder: Path) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"`{folder.name}`" in text


def test_simulated_ones_have_a_timeline_and_the_measured_one_says_so() -> None:
    grades = {folder.name: load_report(folder).recording for folder in REPORTS}
    for name, recording in grades.items():
        if recording.device.kind == "sim":
            assert recording.timeline is not None, name
            assert recording.timeline.grade == "simulated"
        else:
            assert recording.device.grade == "measured"


def test_the_run_before_names_the_one_after_its_fixes() -> None:
    before = load_report(FOLDER / "sdxl-ddim-a100")
    assert before.after == "sdxl-ddim-a100-fixed"
    kept = [outcome for outcome in before.outcomes or () if outcome.status == "kept"]
    assert kept
    after = load_report(FOLDER / before.after)
    assert not [row for row in after.recording.syncs or () if row.in_loop]


def test_the_ladder_is_read() -> None:
    ladder = load_ladder(FOLDER / "sdxl-ladder-a100")
    assert ladder is not None
    assert all(rung.error is not None for rung in ladder.rungs)
    assert msgspec.json.encode(ladder)
