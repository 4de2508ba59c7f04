"""CPU seconds of `fix --apply --lossy` beside those of the scan that it starts from, in one run.

python -m tests.benchmarks.bench_fix_ratio [--profile FILE]

From where the published guide starts: SDXL in float32, 30 steps. Child processes count.
"""

from __future__ import annotations

import cProfile
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from diffprof.cli.app import app

SCAN = ("scan", "sdxl", "--baseline", "--steps", "30", "--analyzers", "syncs,kernels,setup,quantization")
FIX = ("fix", "--apply", "--lossy", "sdxl")


def cpu_seconds(do: Callable[[], object]) -> float:
    """User and system time of this process and of those that it waited for."""
    before = os.times()
    do()
    return sum(now - was for now, was in zip(os.times()[:4], before[:4], strict=True))


def run(command: tuple[str, ...]) -> str:
    """The output of a command of ours."""
    done = CliRunner().invoke(app, [*command, "--format", "markdown"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def main() -> None:
    profiled = sys.argv[2] if sys.argv[1:2] == ["--profile"] else None
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        scan = cpu_seconds(lambda: run(SCAN))
        profile = cProfile.Profile()
        said: list[str] = []
        fix = cpu_seconds(lambda: said.append(profile.runcall(run, FIX) if profiled else run(FIX)))
        os.chdir(Path(__file__).parent)
    if profiled:
        profile.dump_stats(profiled)
    print(said[0])
    print(f"scan {scan:.1f} s, fix {fix:.1f} s of CPU: {fix / scan:.2f} times")


if __name__ == "__main__":
    main()
