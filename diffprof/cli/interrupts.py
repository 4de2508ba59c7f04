"""Ctrl-C as a question: the first asks a piece of work to end with what it has, the second ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether the person asked for the end. Call it where the work can stop and keep what it has."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def stopping() -> Iterator[Stop]:
    """Inside, the first Ctrl-C sets `Stop.asked`; one more raises KeyboardInterrupt, as everywhere.

    Where Ctrl-C is ignored, or handled by someone else, and in other threads than the main one, nothing is
    changed.
    """
    stop = Stop()
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield stop
        return

    def ask(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
