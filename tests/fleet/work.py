"""What the tests of the engines let workers do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from diffprof.model.errors import UsageError


def square(number: int) -> int:
    return number * number


def slow(seconds: float, marks: str) -> int:
    """Leaves a file when it is done."""
    time.sleep(seconds)
    Path(marks, f"{os.getpid()}-{time.time_ns()}").touch()
    return os.getpid()


def refuses(why: str) -> None:
    raise UsageError(why, "Do otherwise.")


def fails() -> None:
    raise ZeroDivisionError("of all things")


def dies_once(mark: str) -> str:
    """The worker is lost the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def together(folder: str) -> int:
    """How many ran at once with this one, at most."""
    mine = Path(folder, str(os.getpid()))
    mine.touch()
    most = 0
    for _ in range(10):
        most = max(most, len(list(Path(folder).iterdir())))
        time.sleep(0.01)
    mine.unlink()
    return most


def unsendable() -> object:
    return lambda: None
