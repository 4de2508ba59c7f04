"""CPU seconds of a scan beside those of another commit, in one run: the first of a process, and a warm one.

    git worktree add --detach ../before COMMIT
    python -m tests.benchmarks.bench_scan_ratio ../before [target]

Each tree runs in processes of its own, imports apart, the two in turns; the best of each counts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS = 4
WARM = 4
HERE = Path(__file__).parents[2]

SCANS = """
import contextlib, io, sys, time
import torch, diffusers, transformers
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection
from diffprof.cli.app import app

for _ in range(1 + int(sys.argv[2])):
    begun = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        app.main(["scan", sys.argv[1], "--format", "json"], standalone_mode=False)
    print(time.process_time() - begun)
"""


def seconds(tree: Path, target: str, folder: str) -> list[float]:
    """CPU seconds of the scans of one process, in order."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what is imported is compiled once, as for a user
    command = [sys.executable, "-c", SCANS, target, str(WARM)]
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return [float(line) for line in done.stdout.split()]


def main() -> None:
    before, target = Path(sys.argv[1]).resolve(), sys.argv[2] if len(sys.argv) > 2 else "sdxl"
    first: dict[Path, list[float]] = {before: [], HERE: []}
    warm: dict[Path, list[float]] = {before: [], HERE: []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            for tree in (before, HERE):
                cold, *others = seconds(tree, target, folder)
                first[tree].append(cold)
                warm[tree] += others
    print(f"{'scan ' + target:<20} {'before':>8} {'now':>8} {'ratio':>6}")
    for name, took in (("first of a process", first), ("warm", warm)):
        was, now = min(took[before]), min(took[HERE])
        print(f"{name:<20} {was:>6.2f} s {now:>6.2f} s {now / was:>6.2f}")


if __name__ == "__main__":
    main()
