"""Start of the commands that need no torch, beside importing click and rich.

Run: python -m tests.benchmarks.bench_cold_start

Runs are interleaved, so that a busy machine slows all alike; the best CPU time of each counts. With compiled
bytecode, as pip leaves it when it installs a package.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from diffprof.model.report import save_report
from tests import builders

ROUNDS = 10
BASE = ["-c", "import click, rich"]
COMMANDS = {
    "--help": ["--help"],
    "show": ["show"],
    "show, json": ["show", "--format", "json"],
    "rules": ["rules"],
    "explain": ["explain", "SYN001"],
    "runs": ["runs"],
}


def cpu_seconds(command: list[str], cwd: Path) -> float:
    """User and system time of one process."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(cwd / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, check=True, stdout=subprocess.DEVNULL
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        save_report(builders.one_of_everything(), where / "traces" / "20260102-030405-sdxl")
        cases = {"import click, rich": BASE, **{k: ["-m", "diffprof", *v] for k, v in COMMANDS.items()}}
        best = dict.fromkeys(cases, float("inf"))
        for _ in range(ROUNDS):
            for name, command in cases.items():
                best[name] = min(best[name], cpu_seconds(command, where))
    base = best["import click, rich"]
    print(f"{'command':<20} {'CPU ms':>7} {'ratio':>6}")
    for name, seconds in best.items():
        print(f"{name:<20} {seconds * 1e3:>7.0f} {seconds / base:>6.2f}")


if __name__ == "__main__":
    main()
