from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffprof.judge.rules import HEADINGS, all_rules
from diffprof.judge.schedulers import SchedulerRow, scheduler_row
from diffprof.model.report import save_report
from diffprof.targets import builtin_targets
from tests import builders
from tests.cli.conftest import FakeScan, Run


def test_runs(run: Run, stored: Path) -> None:
    (stored.parent / "20250101-000000-bad").mkdir()
    (stored.parent / "20250101-000000-bad" / "report.json").write_text("{")
    partial = builders.make_report(recording=builders.make_recording(partial=True))
    save_report(partial, stored.with_name("20260102-030406-part"))
    head, *lines = run("runs").stdout.splitlines()
    assert head.split() == ["run", "target", "device", "findings", "in", "loop", "age", "note"]
    assert lines[0].endswith("partial")
    assert lines[1].startswith("20260102-030405-sdxl")
    assert lines[1].split()[1:5] == ["sdxl", "sim:a100-80gb", "4", "2"]
    assert "unreadable: " in lines[2]
    rows = json.loads(run("runs", "--format", "json").stdout)
    assert [row["findings"] for row in rows] == [0, 4, None]
    assert rows[1]["path"] == "traces/20260102-030405-sdxl"


def test_no_runs(run: Run) -> None:
    result = run("runs")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "diffprof scan" in result.stderr
    assert json.loads(run("runs", "--format", "json").stdout) == []


def test_rules(run: Run) -> None:
    shown = run("rules").stdout
    for rule in all_rules():
        assert f"{rule.code}  {rule.name}" in shown
        assert rule.summary in shown
    rows = json.loads(run("rules", "--format", "json").stdout)
    assert [row["code"] for row in rows] == [rule.code for rule in all_rules()]
    assert set(rows[0]["sections"]) == set(HEADINGS)
    assert run("rules", "--format", "markdown").stdout.startswith(
        "| code | name | analyzer | what it finds |\n"
    )


@pytest.mark.parametrize("key", ["SYN001", "syn001", "value-read"])
def test_explain(run: Run, key: str) -> None:
    shown = run("explain", key).stdout
    assert shown.startswith("SYN001 value-read")
    for heading in HEADINGS:
        assert f"\n{heading}\n  " in shown


def test_explain_lists_the_rules_of_an_analyzer(run: Run) -> None:
    shown = run("explain", "syn").stdout
    codes = [rule.code for rule in all_rules() if rule.code.startswith("SYN")]
    assert len(codes) > 5
    assert [word for word in shown.split() if word.startswith("SYN0")] == codes
    assert "KRN" not in shown


def test_explain_unknown(run: Run) -> None:
    result = run("explain", "value-reed")
    assert result.exit_code == 2
    assert "value-read" in result.stderr


def test_targets(run: Run) -> None:
    shown = run("targets").stdout
    rows = json.loads(run("targets", "--format", "json").stdout)
    assert [row["name"] for row in rows] == [info.name for info in builtin_targets()]
    for row in rows:
        assert row["name"] in shown
        assert row["total"] == sum(row["parameters"].values())


def test_targets_are_searched_by_any_of_their_words(run: Run) -> None:
    def found(word: str) -> set[str]:
        return {
            row["name"] for row in json.loads(run("targets", "--search", word, "--format", "json").stdout)
        }

    assert {"wan2.1-t2v-14b", "wan2.1-t2v-1.3b"} <= found("wan")
    assert found("Wan-AI/Wan2.1-T2V-14B-Diffusers") == {"wan2.1-t2v-14b"}
    nothing = run("targets", "--search", "no-such-model")
    assert nothing.exit_code == 2
    assert "diffprof targets" in nothing.stderr
    assert "Did you mean wan?" in run("targets", "--search", "wann").stderr


ROWS = (
    scheduler_row(
        "DDIMScheduler", builders.make_report(recording=builders.make_recording(builders.make_sync()))
    ),
    scheduler_row("EulerDiscreteScheduler", builders.empty()),
    SchedulerRow(scheduler="OddScheduler", error="its step takes\nno 'generator'"),
)


def test_schedulers(run: Run, fake: FakeScan) -> None:
    fake.rows = ROWS
    result = run("schedulers", "sdxl", "--steps", "4", "--device", "sim:a100-80gb")
    assert fake.called["spec"] == "sdxl"
    assert fake.called["options"].steps == 4
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines == [
        "scheduler per step in loop outside where, in the loop",
        "DDIMScheduler 1 4 0 scheduling_ddim.py:448",
        "EulerDiscreteScheduler 0 0 0",
        "Blocking operations in one call of 4 steps (simulated).",
        "",
        "scheduler why it does not run",
        r"OddScheduler its step takes\nno 'generator'",
    ]
    assert "| EulerDiscreteScheduler | 0 | 0 | 0 |" in run("schedulers", "x", "--format", "markdown").stdout


def test_schedulers_json_keeps_unknown_as_null(run: Run, fake: FakeScan) -> None:
    fake.rows = ROWS
    rows = json.loads(run("schedulers", "sdxl", "--format", "json").stdout)
    assert rows[0]["sites"] == ["diffusers/schedulers/scheduling_ddim.py:448"]
    assert rows[1]["in_loop"] == 0
    assert rows[2]["in_loop"] is None
    assert rows[2]["error"]


def test_a_scheduler_whose_syncs_were_not_recorded_has_no_counts() -> None:
    row = scheduler_row("X", builders.nothing_measured())
    assert row.in_loop is None
    assert row.error == "syncs not recorded"
