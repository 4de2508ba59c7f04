"""Signals that ask a command to end: it keeps what it has, and says by its exit status that it was ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from diffprof.model.errors import Stopped
from diffprof.targets.exits import guard

ASKING = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, `kill`, and a terminal that was closed; each where the system has it."""


class Stop:
    """Whether the person asked for the end. Call it where the work can stop and keep what it has."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked


class Signals:
    """What came since the command began.

    came: the first signal. holding: what comes is remembered and raised by `release`; the second is raised at
    once. stop: told of the first signal instead of raising it.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        self.holding = False
        self.stop: Stop | None = None
        self._held: BaseException | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        del frame
        active = guard()
        pending = active.pending if active is not None else None
        if active is not None:
            active.pending = None
        if pending is None:
            self.came = self.came or number
        asked = pending or (KeyboardInterrupt() if number == signal.SIGINT else Stopped(number))
        if self.holding and self._held is None:
            self._held = asked
        elif self.stop is not None and not self.stop.asked and pending is None:
            self.stop.asked = True
        else:
            raise asked

    def hold(self) -> None:
        """From here on a result is stored and shown: the first signal waits until that is done."""
        self.holding = True

    def release(self) -> None:
        """Raise what came meanwhile."""
        self.holding = False
        held, self._held = self._held, None
        if held is not None:
            raise held

    def taken(self) -> None:
        """The command was meant to be ended this way."""
        self.came = None


_HEARD: list[Signals] = []


def signals() -> Signals:
    """Of the command that runs; one that hears nothing where none does."""
    return _HEARD[-1] if _HEARD else Signals()


@contextmanager
def heard() -> Iterator[Signals]:
    """Inside, signals that ask for the end raise KeyboardInterrupt in the main thread, and are noted.

    A signal that is ignored, as under nohup, or handled by someone else stays so; outside of the main thread
    nothing is changed.
    """
    now = Signals()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in ASKING if hasattr(signal, name)):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                before[number] = signal.signal(number, now)
    _HEARD.append(now)
    try:
        yield now
    finally:
        _HEARD.remove(now)
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Inside, the first signal sets `Stop.asked`; one more raises KeyboardInterrupt, as everywhere."""
    now = signals()
    now.stop = Stop()
    try:
        yield now.stop
    finally:
        now.stop = None
