"""The viewer: start-up beyond Python, and time a key takes over 5,000 findings.

Run: python -m tests.benchmarks.bench_tui

Start-up is the CPU time of `diffprof view` in a terminal of its own until the first screen is drawn, beside
that of `python -c pass`; runs are interleaved and the best of each counts (the wall time is printed too, and
means something on an idle machine only). A key's time is the CPU time of the whole application, from the key
to the drawn screen. Exits with 1 when a key takes over 50 ms or the start-up over 500 ms.
"""

from __future__ import annotations

import asyncio
import os
import pty
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from diffprof.collection import leave_to_the_system
from diffprof.report import Report, load_report, save_report
from diffprof.timeline import steps_of
from diffprof.views.tui.app import Viewer
from tests import builders

ROUNDS = 5
MOST_KEY_MS = 50.0
MOST_START_MS = 500.0


def first_screen(traces: Path) -> None:
    """Start the viewer, and end it when the verdict and the footer are on its screen."""
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    # Modules are compiled once, as they are where diffprof is installed; that run does not count.
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(traces / "bytecode")}
    process = subprocess.Popen(
        [sys.executable, "-m", "diffprof", "view", "--traces", str(traces)],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment,
        start_new_session=True,
    )
    os.close(child)
    seen = b""
    while b"Verdict" not in seen or b"Quit" not in seen:
        seen += os.read(parent, 65_536)
    process.kill()
    process.wait()
    os.close(parent)


def python_alone() -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=True)


def cost(run: Callable[[], None]) -> tuple[float, float]:
    """CPU and wall milliseconds of a process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run()
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - start
    used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return used * 1e3, wall * 1e3


def beyond_python(traces: Path) -> tuple[float, float]:
    """CPU and wall milliseconds of the first screen, less those of Python alone: each the best of ROUNDS."""
    pairs = [(cost(lambda: first_screen(traces)), cost(python_alone)) for _ in range(ROUNDS)]
    cpu, wall = (min(p[0][n] for p in pairs) - min(p[1][n] for p in pairs) for n in range(2))
    return cpu, wall


KEYS = {
    "down": ["down"] * 40,
    "page down": ["pagedown"] * 20,
    "end, home": ["end", "home"] * 10,
    "filter": ["a", "p", "g", "l", "l", "x"] * 4,
    "sort": ["s"] * 10,
    "type a search": ["slash", *"scheduling 49", "enter", "x"],
}


TIMELINE_KEYS = {
    "timeline, move": ["right"] * 20,
    "timeline, zoom, pan": ["plus", "plus", "l", "l", "h", "minus", "n", "z", "0"] * 2,
}


def long_call(steps: int = 50) -> Report:
    """A recorded run with its timeline repeated until it has that many steps."""
    report = load_report(Path(__file__).parents[2] / "traces" / "samples" / "sdxl-ddim-a100")
    timeline = report.recording.timeline
    assert timeline
    times = -(-steps // len(steps_of(timeline)))
    columns = ("kind", "module", "host_us", "device_us", "stream", "sync")
    long = replace(timeline, **{name: getattr(timeline, name) * times for name in columns})
    return replace(report, recording=replace(report.recording, timeline=long))


async def keys_ms(
    report: Report, actions: dict[str, list[str]], *first: str
) -> dict[str, tuple[float, float]]:
    """Action -> median and largest CPU milliseconds a key."""
    found = {}
    app = Viewer(report, Path("traces"))
    async with app.run_test(size=(120, 40)) as pilot:
        await pilot.press(*first)
        await pilot.pause(0.5)
        leave_to_the_system()  # as the command does
        for name, keys in actions.items():
            times = []
            for key in keys:
                start = time.process_time()
                await pilot.press(key)
                await pilot.pause()
                times.append((time.process_time() - start) * 1e3)
            found[name] = (statistics.median(times), max(times))
    return found


def main() -> int:
    print(f"{'start-up beyond Python':<24} {'CPU ms':>10} {'wall ms':>8}")
    slowest = 0.0
    for name, report in (
        ("small report", builders.one_of_everything()),
        ("5,000 findings", builders.many(5_000)),
    ):
        with tempfile.TemporaryDirectory() as folder:
            save_report(report, Path(folder) / "20260102-030405-sdxl")
            cpu, wall = beyond_python(Path(folder))
        print(f"{name:<24} {cpu:>10.0f} {wall:>8.0f}")
        slowest = max(slowest, cpu)
    worst = 0.0
    long = long_call()
    assert long.recording.timeline
    events = f"{len(long.recording.timeline.kind):,} events"
    for title, report, actions, first in (
        ("5,000 findings", builders.many(5_000), KEYS, ()),
        (events, long, TIMELINE_KEYS, ("2",)),
    ):
        print(f"{f'a key, {title}':<24} {'median ms':>10} {'most ms':>8}")
        for name, (middle, most) in asyncio.run(keys_ms(report, actions, *first)).items():
            print(f"{name:<24} {middle:>10.1f} {most:>8.1f}")
            worst = max(worst, middle)
    return int(worst > MOST_KEY_MS or slowest > MOST_START_MS)


if __name__ == "__main__":
    sys.exit(main())
