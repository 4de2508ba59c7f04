"""The viewer: start-up beyond Python, and time a key takes over 5,000 findings.

Run: python -m tests.benchmarks.bench_tui

Every figure is of `diffprof view` in a terminal of its own. Start-up is the CPU time until the first screen
is drawn, beside that of `python -c pass`; runs are interleaved and the best of each counts. A key's time goes
from the byte that the terminal sends to the last change of the screen that it causes: nothing is left for
later. Every key is pressed in the same place in each of ROUNDS viewers, and its best time counts. CPU time is
that of the viewer's main thread (Linux). Wall time, which means something on an idle machine only, has the
wait for the next frame in it: the screen is drawn 60 times a second.
"""

from __future__ import annotations

import fcntl
import os
import pty
import resource
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from diffprof.judge.steps import steps_of
from diffprof.model.report import Report, load_report, save_report
from tests import builders

ROUNDS = 3
STILL_S = 0.15
"""Seconds without a change, after which the screen is taken to stand."""
BEGIN_S = 1.0
"""Seconds in which the first change is waited for."""
COLUMNS, LINES = 120, 40


@contextmanager
def viewer(traces: Path) -> Iterator[tuple[int, int]]:
    """A viewer whose first screen stands: its process id and its terminal."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "XDG_CONFIG_HOME": str(traces / "config")}
    # Modules are compiled once, as they are where diffprof is installed.
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(traces / "bytecode")}
    for name in ("COLUMNS", "LINES"):
        environment.pop(name, None)
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
    try:
        while b"Verdict" not in seen or b"Quit" not in seen:
            seen += os.read(parent, 65_536)
        yield process.pid, parent
    finally:
        process.kill()
        process.wait()
        os.close(parent)


def first_screen(traces: Path) -> None:
    with viewer(traces):
        pass


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


BYTES = {
    "down": b"\x1b[B",
    "right": b"\x1b[C",
    "pageup": b"\x1b[5~",
    "pagedown": b"\x1b[6~",
    "home": b"\x1b[H",
    "end": b"\x1b[F",
    "enter": b"\r",
    "escape": b"\x1b[27u",
}
KEYS = {
    "down": ["down"] * 10,
    "page": ["pagedown"] * 5 + ["pageup"] * 3,
    "end, home": ["end", "home"] * 3,
    "filter": ["a", "p", "g", "l", "l", "x"] * 2,
    "sort": ["s"] * 8 + ["S"] * 2,
    "search": [*"/scheduling", *"/49", "enter", "x"],
    "open, next, back": ["enter", "n", "n", "escape"],
    "tabs, first time": [*"21314151617181"],
    "tabs": [*"23456781"],
    "what-if": ["w", "1"],
    "verdict": ["v", "v"],
    "help": ["?", "escape"],
}
TIMELINE_KEYS = {
    "timeline, move": ["right"] * 10,
    "timeline, zoom, pan": [*"++llh-nz0"],
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


def cpu_ms(process: int) -> float:
    """CPU milliseconds of its main thread."""
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) / 1e6


def last_change(terminal: int, begin: float = BEGIN_S, still: float = STILL_S) -> float | None:
    """When the screen changed last, once it stands; None if it did not."""
    last = None
    while select.select([terminal], [], [], begin if last is None else still)[0]:
        os.read(terminal, 65_536)
        last = time.perf_counter()
    return last


def press(key: str, process: int, terminal: int) -> tuple[float, float]:
    """CPU and wall milliseconds from the key to the last change of the screen."""
    used, start = cpu_ms(process), time.perf_counter()
    os.write(terminal, BYTES.get(key) or key.encode())
    last = last_change(terminal)
    return cpu_ms(process) - used, ((last or start) - start) * 1e3


def keys_ms(
    traces: Path, actions: dict[str, list[str]], first: str = ""
) -> dict[str, list[tuple[float, float]]]:
    """Action -> CPU and wall milliseconds of each of its keys."""
    rounds = []
    for _ in range(ROUNDS):
        with viewer(traces) as (process, terminal):
            last_change(terminal, still=2.0)
            for key in first:
                press(key, process, terminal)
            rounds.append(
                {name: [press(key, process, terminal) for key in keys] for name, keys in actions.items()}
            )
    return {
        name: [(min(cpu for cpu, _ in own), min(wall for _, wall in own)) for own in zip(*each, strict=True)]
        for name, *each in ((name, *(done[name] for done in rounds)) for name in actions)
    }


def main() -> None:
    print(f"{'start-up beyond Python':<24} {'CPU ms':>10} {'wall ms':>8}")
    long = long_call()
    assert long.recording.timeline
    reports = (
        ("small report", builders.one_of_everything(), {}, ""),
        ("5,000 findings", builders.many(5_000), KEYS, ""),
        (f"{len(long.recording.timeline.kind):,} events", long, TIMELINE_KEYS, "2"),
    )
    tables = []
    for title, report, actions, first in reports:
        with tempfile.TemporaryDirectory() as folder:
            save_report(report, Path(folder) / "20260102-030405-sdxl")
            if report is not long:
                cpu, wall = beyond_python(Path(folder))
                print(f"{title:<24} {cpu:>10.0f} {wall:>8.0f}")
            tables.append((title, keys_ms(Path(folder), actions, first) if actions else {}))
    for title, found in tables:
        if not found:
            continue
        print(f"\n{'a key,':<24} {'CPU ms':>16} {'wall ms':>16}")
        print(f"{title:<24} {'median':>8} {'most':>7} {'median':>8} {'most':>7}")
        for name, keys in found.items():
            figures = [pick(each[n] for each in keys) for n in range(2) for pick in (statistics.median, max)]
            print(f"{name:<24} {figures[0]:>8.1f} {figures[1]:>7.1f} {figures[2]:>8.1f} {figures[3]:>7.1f}")


if __name__ == "__main__":
    main()
