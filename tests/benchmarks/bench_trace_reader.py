"""Reading one large trace: diffprof, json.load and HolisticTraceAnalysis, each in a process of its own.

    python tests/benchmarks/bench_trace_reader.py [MEGABYTES] [--hta PYTHON] [--keep FILE]

Prints seconds of CPU time, MB/s and peak memory. HolisticTraceAnalysis may live in another environment; name
its interpreter with --hta.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MEASURE = """
import json, resource, sys, time, warnings
warnings.filterwarnings("ignore")
sys.path.insert(0, {root!r})
path = {path!r}
{prepare}
before = resource.getrusage(resource.RUSAGE_SELF)
wall = time.perf_counter()
{work}
wall = time.perf_counter() - wall
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print("RESULT", json.dumps({{"cpu": cpu, "wall": wall, "rss": after.ru_maxrss * 1024}}))
"""

READERS = {
    "diffprof: read": ("from diffprof.chrome_trace.reader import read_trace", "read_trace(path)"),
    "diffprof: read and analyse": (
        "from diffprof.scanning.importing import record_trace",
        "record_trace(path)",
    ),
    "json.load": ("", "json.load(open(path))"),
    "HolisticTraceAnalysis: read": (
        "import logging; logging.disable(logging.CRITICAL); from hta.common.trace import Trace",
        "Trace({0: path}, '').parse_traces(use_multiprocessing=False)",
    ),
}


def measure(python: str, path: Path, prepare: str, work: str) -> dict[str, float] | None:
    """CPU seconds, wall seconds and peak memory of one reader; None if it can't run."""
    code = MEASURE.format(root=str(ROOT), path=str(path), prepare=prepare, work=work)
    run = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    for line in run.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    print(f"  did not run: {(run.stderr.strip().splitlines() or ['no output'])[-1]}")
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("megabytes", nargs="?", type=int, default=500)
    parser.add_argument("--hta", default=sys.executable, help="interpreter that has HolisticTraceAnalysis")
    parser.add_argument("--keep", type=Path, help="write the trace here and keep it")
    chosen = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.chrome_trace.generate import generate

    with tempfile.TemporaryDirectory() as folder:
        path = chosen.keep or Path(folder) / "large.json"
        facts = generate(path, chosen.megabytes * 1_000_000)
        size = path.stat().st_size
        print(
            f"{size / 1e6:,.0f} MB, {facts.events:,} events, {facts.frames / facts.events:.0%} Python frames"
        )
        print(f"{'':30}{'CPU s':>9}{'wall s':>9}{'MB/s':>9}{'peak MB':>9}{'of file':>9}")
        for name, (prepare, work) in READERS.items():
            python = chosen.hta if "Holistic" in name else sys.executable
            result = measure(python, path, prepare, work)
            if result:
                print(
                    f"{name:30}{result['cpu']:9.1f}{result['wall']:9.1f}{size / 1e6 / result['cpu']:9.1f}"
                    f"{result['rss'] / 1e6:9.0f}{result['rss'] / size:9.2f}"
                )


if __name__ == "__main__":
    main()
