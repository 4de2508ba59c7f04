"""What can't hold in a report that is read is one clear error, in every command that reads one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffprof.model.errors import UsageError
from diffprof.model.report import REPORT_FILE, load_report, save_report
from tests.cli.conftest import Run, run  # noqa: F401
from tests.views.tui import reports

EVENTS = len(reports.full().recording.timeline.host_us)  # type: ignore[union-attr]
KINDS = len(reports.full().recording.timeline.kinds)  # type: ignore[union-attr]

FAULTS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    **{
        f"{name} is one short": (
            lambda timeline, name=name: timeline[name].pop(),
            f"timeline.{name} has {EVENTS - 1} entries for {EVENTS} events",
        )
        for name in ("kind", "module", "device_us", "stream", "sync")
    },
    "one event too many on the host": (
        lambda timeline: timeline["host_us"].append(1.0),
        f"timeline.kind has {EVENTS} entries for {EVENTS + 1} events",
    ),
    **{
        f"{name} is there for one event": (
            lambda timeline, name=name: timeline.update({name: [0.0]}),
            f"timeline.{name} has 1 entries for {EVENTS} events",
        )
        for name in ("settle_us", "late_us")
    },
    "a kind that is not there": (
        lambda timeline: timeline["kind"].__setitem__(0, KINDS),
        f"timeline.kind names one that is not among the {KINDS} kinds",
    ),
    "a module below -1": (
        lambda timeline: timeline["module"].__setitem__(-1, -2),
        "timeline.module names one that is not among the",
    ),
    "a wait that is not there": (
        lambda timeline: timeline["sync"].__setitem__(0, 10**6),
        "timeline.sync names one that is not among the",
    ),
    "a phase beyond the end": (
        lambda timeline: timeline["phases"][0].update(last=EVENTS + 1),
        f", {EVENTS + 1}) of {EVENTS} events",
    ),
}


def damaged(folder: Path, fault: Callable[[dict[str, Any]], Any]) -> Path:
    save_report(reports.full(), folder)
    file = folder / REPORT_FILE
    report = json.loads(file.read_text())
    fault(report["recording"]["timeline"])
    file.write_text(json.dumps(report))
    return folder


@pytest.mark.parametrize(("fault", "said"), FAULTS.values(), ids=FAULTS)
def test_a_timeline_that_does_not_fit_is_told_on_load(tmp_path: Path, fault: Any, said: str) -> None:
    with pytest.raises(UsageError) as error:
        load_report(damaged(tmp_path / "run", fault))
    assert said in error.value.what
    assert "is damaged: " in error.value.what


COMMANDS = (("show",), ("fix",), ("compare", "good"), ("tensorboard", "--no-serve"), ("view",))


@pytest.mark.parametrize("fault", ["sync is one short", "a kind that is not there"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_says_it_once(
    run: Run,  # noqa: F811
    tmp_path: Path,
    command: tuple[str, ...],
    fault: str,
) -> None:
    change, said = FAULTS[fault]
    save_report(reports.full(), tmp_path / "traces" / "20260102-030405-good")
    folder = damaged(tmp_path / "traces" / "20260102-030406-bad", change)
    name, *more = (str(tmp_path / "traces" / "20260102-030405-good") if p == "good" else p for p in command)
    result = run(name, folder, *more)
    assert result.exit_code == 2
    assert result.stderr.count(said) == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
