"""Scripts that wait: servers, worker threads, a call that comes with a request."""

from __future__ import annotations

import ctypes
import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from diffprof.model.callsite import is_machinery, source_line
from diffprof.model.pipeline import replaced
from diffprof.targets.interception import Interception, Unwound

PATIENCE_S = 5.0
"""Seconds that a script may wait without a call before it is said what to do."""

IDLE_SHARE = 0.2
"""A process that takes less of one CPU than this, and does not queue for one, waits."""

LOOK_S = 0.25
AGAIN_S = 0.5


@contextmanager
def threads_join_in(surroundings: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """Threads that are started inside run in `surroundings`, as modes of torch are per thread; leaving the
    script ends them without a word."""
    run = threading.Thread.run

    @functools.wraps(run)
    def within(self: threading.Thread) -> None:
        try:
            with surroundings():
                run(self)
        except Unwound:
            return

    with replaced(threading.Thread, "run", within):
        yield


@contextmanager
def children_counted() -> Iterator[list[BaseProcess]]:
    """Child processes that Python code starts inside: what they call is not seen here."""
    start, started = BaseProcess.start, []

    @functools.wraps(start)
    def noted(self: BaseProcess) -> None:
        started.append(self)
        start(self)

    with replaced(BaseProcess, "start", noted):
        yield started


@contextmanager
def released(interception: Interception) -> Iterator[None]:
    """Inside, a call that another thread makes ends the wait of this one once it was played."""
    here = threading.current_thread()
    in_main = here is threading.main_thread()

    def leave(number: int, frame: Any) -> None:
        if left.is_set():
            return
        if interception.done.is_set():
            raise Unwound
        (before if callable(before) else signal.default_int_handler)(number, frame)

    def release() -> None:
        interception.done.wait()
        if interception.thread is here:
            return
        while not left.is_set():  # an event loop swallows what is raised in one of its callbacks
            _interrupt(here, in_main)
            left.wait(AGAIN_S)

    left = threading.Event()
    before = signal.signal(signal.SIGINT, leave) if in_main else None
    waker = threading.Thread(target=release, daemon=True, name="diffprof-release")
    waker.start()
    try:
        yield
    finally:
        with suppress(Unwound):
            left.set()
        left.set()
        interception.done.set()
        waker.join()
        if in_main:
            signal.signal(signal.SIGINT, before)


def _interrupt(thread: threading.Thread, in_main: bool) -> None:
    """Let a thread that waits go on with Unwound. Only the main one can be waked out of a system call."""
    if in_main and hasattr(signal, "pthread_kill"):
        signal.pthread_kill(thread.ident or 0, signal.SIGINT)
    else:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(thread.ident or 0), ctypes.py_object(Unwound)
        )


@contextmanager
def told_what_to_do(file: Path, interception: Interception, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Inside, a script that waits and has called nothing for `patience_s` seconds is said to, once."""
    ended = threading.Event()
    ident = threading.get_ident()

    def look() -> None:
        waited, busy = 0.0, time.process_time() + queued_s()
        while not (ended.wait(LOOK_S) or interception.over):
            now = time.process_time() + queued_s()
            waited = waited + LOOK_S if now - busy < IDLE_SHARE * LOOK_S else 0.0
            busy = now
            if waited >= patience_s:
                sys.stderr.write(_advice(file, ident, patience_s))
                return

    threading.Thread(target=look, daemon=True, name="diffprof-look").start()
    try:
        yield
    finally:
        ended.set()


def queued_s() -> float:
    """Seconds in which the main thread could have run, and others had the CPUs; 0 where no system tells."""
    try:
        return float(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _advice(file: Path, ident: int, patience_s: float) -> str:
    frame = sys._current_frames().get(ident)
    while frame is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    at = ""
    if frame is not None:
        code = source_line(frame.f_code.co_filename, frame.f_lineno)
        at = f" at {frame.f_code.co_filename}:{frame.f_lineno}" + (f": {code}" if code else "")
    return (
        f"{file} has waited for {patience_s:g} seconds{at}, and has called no pipeline yet.\n"
        "If it is a server, send it the request that makes a picture: that call is scanned. Otherwise stop "
        "with Ctrl-C, and scan a factory that returns the pipeline and its call (file.py:function).\n"
    )
