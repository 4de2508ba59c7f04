"""Telling a thread that waits from one that works, or queues for a CPU."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from diffprof.model.callsite import is_machinery, is_stdlib

LOOK_S = 0.25
IDLE_SHARE = 0.2
"""What takes less of one CPU than this, and does not queue for one, waits."""


class Idleness:
    """clock: seconds of CPU time taken, or queued for, so far. look: to be called every LOOK_S seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.waited_s = 0.0
        self._before = clock()

    def look(self) -> float:
        """Seconds waited up to now without a break."""
        now = self.clock()
        self.waited_s = self.waited_s + LOOK_S if now - self._before < IDLE_SHARE * LOOK_S else 0.0
        self._before = now
        return self.waited_s


def queued_s() -> float:
    """Seconds in which the main thread could have run, and others had the CPUs; 0 where no system tells."""
    try:
        return float(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def busy_s(threads: Iterable[threading.Thread]) -> float:
    """Seconds that these threads ran, or queued for a CPU; those of the process where no system tells."""
    try:
        files = (Path(f"/proc/self/task/{each.native_id}/schedstat") for each in threads if each.is_alive())
        return sum(sum(map(float, file.read_text().split()[:2])) for file in files) / 1e9
    except (OSError, ValueError):
        return time.process_time()


def waits_itself(thread: threading.Thread) -> bool:
    """Whether what a thread stands in, below Python's own locks and queues, is a person's code: not a wait of
    torch's or of ours, as for a compiler."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None and is_stdlib(frame.f_code.co_filename):
        frame = frame.f_back
    return frame is None or not is_machinery(frame.f_code.co_filename)
