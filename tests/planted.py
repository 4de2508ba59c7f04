"""Faults planted in the code, each of which a fast test of its own room has to kill.

`python -m tests.planted` copies the package, plants one fault at a time, runs the room's tests, and lists the
faults that survive; its exit status is their number.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Fault(NamedTuple):
    """What is replaced where, and the tests that have to see it."""

    what: str
    file: str
    right: str
    wrong: str
    tests: str


FAULTS = (
    Fault(
        "the latency of a synchronization is dropped in the replay",
        "judge/timeline.py",
        "timeline.settle_us or [timeline.sync_latency_us]",
        "timeline.settle_us or [0.0]",
        "tests/judge/test_timeline.py",
    ),
    Fault(
        "findings are sorted without what they save",
        "model/finding.py",
        "-(finding.saves_ms or 0.0),\n",
        "0.0,\n",
        "tests/judge",
    ),
    Fault(
        "prefixes of codes no longer match in the gate",
        "judge/gate.py",
        "r.code.lower().startswith(key)",
        "r.code.lower() == key",
        "tests/judge/test_gate.py",
    ),
    Fault(
        "a wait is called hidden that costs 15 %",
        "judge/pricing.py",
        "HIDDEN_SHARE = 0.05",
        "HIDDEN_SHARE = 0.15",
        "tests/judge/test_pricing.py",
    ),
    Fault(
        "a finding saves less than nothing",
        "judge/pricing.py",
        "            saved = max(0.0, run.total_us - total_us(timeline, without))",
        "            saved = run.total_us - total_us(timeline, without)",
        "tests/judge/test_pricing.py",
    ),
    Fault(
        "a wait recurs in three steps only",
        "analyzers/syncs/rules.py",
        "sum(1 for n in row.by_step if n) > 1",
        "sum(1 for n in row.by_step if n) > 2",
        "tests/analyzers/syncs/test_rules.py",
    ),
    Fault(
        "a wait in a scheduler's module is not the scheduler's",
        "analyzers/syncs/rules.py",
        'row.part == "scheduler" or row.site.module in schedulers',
        'row.part == "scheduler"',
        "tests/analyzers/syncs/test_rules.py",
    ),
    Fault(
        "an action that saves what it does alone is said to save more with others",
        "judge/summary.py",
        "(action.alone_ms or 0.0) + max(below",
        "(action.alone_ms or 0.0) - max(below",
        "tests/judge/test_summary.py",
    ),
    Fault(
        "a page of markdown is longer than code hosts take",
        "views/markdown_text.py",
        "LIMIT = 60_000",
        "LIMIT = 70_000",
        "tests/views/test_hostile.py",
    ),
    Fault(
        "shares of a plan count half",
        "judge/plan.py",
        "after *= 1.0 - share",
        "after *= 1.0 - share / 2",
        "tests/judge",
    ),
    Fault(
        "repeat_interleave waits once",
        "devices/simulated/blocking.py",
        '(cumsum[-1].item(), all().item())",\n            waits=2,',
        '(cumsum[-1].item(), all().item())",\n            waits=1,',
        "tests/devices/simulated/test_blocking.py",
    ),
)


def survives(fault: Fault, tree: Path) -> bool:
    """Whether the tests pass with the fault planted."""
    file = tree / "diffprof" / fault.file
    whole = file.read_text()
    if whole.count(fault.right) != 1:
        raise SystemExit(f"{fault.file} has {fault.right!r} {whole.count(fault.right)} times, not once")
    file.write_text(whole.replace(fault.right, fault.wrong))
    try:
        run = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-m",
            "not slow",
            fault.tests,
        ]
        done = subprocess.run(run, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True)
    finally:
        file.write_text(whole)
    if done.returncode not in (0, 1):
        raise SystemExit(done.stdout.decode() + done.stderr.decode())
    return done.returncode == 0


def main() -> int:
    alive = 0
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        skipped = shutil.ignore_patterns(".git", ".venv", "traces", "__pycache__")
        shutil.copytree(ROOT, tree, ignore=skipped)
        for fault in FAULTS:
            lives = survives(fault, tree)
            alive += lives
            print("SURVIVES" if lives else "killed  ", fault.what, f"({fault.tests})", flush=True)
    return alive


if __name__ == "__main__":
    sys.exit(main())
