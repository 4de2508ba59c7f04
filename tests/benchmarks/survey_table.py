"""Survey every pipeline and write `diffprof/docs/survey.md`.

    python -m tests.benchmarks.survey_table

As many processes as cores; some minutes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from diffprof.fleet.grid import versions

FILE = Path(__file__).parents[2] / "diffprof" / "docs" / "survey.md"

PAGE = """\
# Every pipeline, surveyed

What `diffprof survey` prints with PyTorch {torch} and diffusers {diffusers}: the tiny pipelines of the
corpus (`corpus:NAME`) and the built-in architectures at full size, simulated on an A100. Waits are blocking
operations of a call; `-` was not looked at; [many runs](fleet.md) says what the columns mean. Nothing here
was measured. Written by `tests/benchmarks/survey_table.py`.

{rows}"""


def main() -> None:
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = ("survey", "--quiet", "--format", "markdown", "--traces", folder)
        done = subprocess.run(
            [sys.executable, "-m", "diffprof", *command], check=True, stdout=subprocess.PIPE, text=True
        )
    _, torch, diffusers = versions()
    FILE.write_text(PAGE.format(torch=torch.partition("+")[0], diffusers=diffusers, rows=done.stdout))
    print(done.stdout.splitlines()[-1], f"{time.perf_counter() - begin:.0f} s", sep="\n")


if __name__ == "__main__":
    main()
