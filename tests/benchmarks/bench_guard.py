"""What a test with `assert_no_waits` takes: the first scan of a run, a second equal one, and another one.

python -m tests.benchmarks.bench_guard
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = '''
import time

import pytest
import diffprof.scanning.scan  # with torch, diffusers and transformers
import diffusers
from diffusers import StableDiffusionXLPipeline


@pytest.fixture(scope="module", autouse=True)
def imported():
    """What a first scan imports: the classes of the target, and diffprof's own."""
    from diffprof.targets import resolve

    resolve("tiny-sdxl").load_code()


@pytest.fixture(autouse=True)
def timed(request):
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"TIMED {request.node.name} {time.perf_counter() - wall:.2f} {time.process_time() - cpu:.2f}")


def test_first(diffprof):
    report = diffprof.scan("tiny-sdxl", scheduler="EulerDiscreteScheduler", device="sim:a100-80gb")
    report.assert_no_waits(in_loop=True)


def test_second(diffprof):
    report = diffprof.scan("tiny-sdxl", scheduler="EulerDiscreteScheduler", device="sim:a100-80gb")
    report.assert_no_waits(in_loop=True)


def test_another_scheduler(diffprof):
    report = diffprof.scan("tiny-sdxl", scheduler="DPMSolverMultistepScheduler", device="sim:a100-80gb")
    report.assert_no_waits(in_loop=True)
'''


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_bench.py"
        file.write_text(TESTS)
        options = ["-p", "diffprof.guard.pytest_plugin", "-s", "--rootdir", folder]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(file)],
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
        )
    for test, wall, cpu in re.findall(r"TIMED test_(\w+) ([\d.]+) ([\d.]+)", done.stdout):
        print(f"{test.replace('_', ' ')}: {wall} s, {cpu} s of CPU")
    print(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
