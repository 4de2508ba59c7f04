"""`--baseline-file` of a scan, and `diffprof baseline`: only what is new fails."""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import structs

from tests import builders
from tests.cli.conftest import FakeScan, Run

NEW = builders.make_finding(site=builders.make_site("my/scheduler.py", 99, user_code=True))


def test_a_scan_fails_on_what_is_new_alone(run: Run, fake: FakeScan) -> None:
    known = ("scan", "sdxl", "--quiet", "--baseline-file", "known.json")
    missing = run(*known)
    assert (missing.exit_code, "There is no baseline known.json." in missing.stderr) == (2, True)
    assert not fake.called, "refused before anything is scanned"
    assert run(*known, "--update").exit_code == 0
    assert run(*known).exit_code == 0
    assert run(*known, "--fail-on", "SYN").exit_code == 0
    fake.report = structs.replace(fake.report, findings=(*fake.report.findings, NEW))
    result = run(*known)
    assert result.exit_code == 1
    assert result.stderr.count("new: ") == 1
    assert "new: my/scheduler.py:99: SYN001 value-read: " in result.stderr
    assert run(*known, "--fail-on", "SYN001").exit_code == 1
    assert run(*known, "--fail-on", "KRN001").exit_code == 4, "not checked"


def test_update_needs_a_file(run: Run, fake: FakeScan) -> None:
    result = run("scan", "sdxl", "--update")
    assert (result.exit_code, "Name it with --baseline-file." in result.stderr) == (2, True)


def test_a_stored_run_as_a_baseline(run: Run, stored: Path) -> None:
    result = run("baseline", "sdxl")
    assert result.exit_code == 0
    (target,) = json.loads(result.stdout)["targets"]
    assert target == "sdxl on sim:a100-80gb"


def test_a_file_that_is_no_baseline(run: Run, fake: FakeScan) -> None:
    Path("known.json").write_text('{"schema": 1, "targets": 3}')
    result = run("scan", "sdxl", "--baseline-file", "known.json")
    assert (result.exit_code, "known.json is no baseline" in result.stderr) == (2, True)
    Path("known.json").write_text('{"schema": 9}')
    newer = run("scan", "sdxl", "--baseline-file", "known.json")
    assert (newer.exit_code, "has schema 9" in newer.stderr) == (2, True)
