"""Scripts that wait: servers, worker threads, a call that comes with a request."""

from __future__ import annotations

import ctypes
import functools
import logging
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from concurrent.futures import thread as executor_threads
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from weakref import WeakSet

from diffprof.model.callsite import importable_path, is_machinery, source_line
from diffprof.model.pipeline import replaced
from diffprof.targets.idle import LOOK_S, Idleness, queued_s
from diffprof.targets.interception import Interception, Unwound, is_leaving
from diffprof.targets.side_effects import LOADERS

PATIENCE_S = 5.0
"""Seconds that a script may wait without a call before it is said what to do."""

AGAIN_S = 0.5


@contextmanager
def threads_join_in(surroundings: Callable[[], AbstractContextManager[object]]) -> Iterator[ScriptThreads]:
    """Threads that are started inside run in `surroundings`, as modes of torch are per thread; leaving the
    script ends them without a word."""
    start, threads = threading.Thread.start, ScriptThreads()

    @functools.wraps(start)
    def begin(self: threading.Thread) -> None:
        run, own = self.run, "run" in vars(self)

        def within() -> None:
            del vars(self)["run"]
            if own:
                vars(self)["run"] = run
            try:
                with surroundings():
                    run()
            except BaseException as error:
                if not (threads.outlived or is_leaving(error)):
                    raise

        vars(self)["run"] = within
        threads.started.add(self)
        start(self)

    try:
        with replaced(threading.Thread, "start", begin):
            yield threads
    finally:
        threads.outlived = True


class ScriptThreads:
    """The threads that a script starts. outlived: the script is over, and what they raise is nobody's."""

    def __init__(self) -> None:
        self.outlived = False
        self.started: WeakSet[threading.Thread] = WeakSet()

    def join(self) -> None:
        """Wait for those that Python waits for at the end of a script; workers of a pool that have nothing to
        do it would end."""
        seen_idle = 0
        while seen_idle < 2:
            alive = [each for each in [*self.started] if each.is_alive() and not each.daemon]
            busy = [each for each in alive if not _awaits_work(each)]
            for each in busy:
                each.join(LOOK_S)
            seen_idle = 0 if busy else seen_idle + 1 if alive else 2
            if seen_idle == 1:
                time.sleep(LOOK_S / 10)  # it may have been about to take some


def _awaits_work(thread: threading.Thread) -> bool:
    """Whether a thread is a worker of a ThreadPoolExecutor between two pieces of work."""
    frame = sys._current_frames().get(thread.ident or 0)
    return frame is not None and frame.f_code is getattr(executor_threads, "_worker").__code__  # noqa: B009


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
def leaving_said_once(file: Path) -> Iterator[None]:
    """Inside, what is logged of leaving the script, with a traceback each, is one line."""
    handle, said = logging.Logger.handle, threading.Event()

    @functools.wraps(handle)
    def handled(self: logging.Logger, record: logging.LogRecord) -> None:
        if not (record.exc_info and is_leaving(record.exc_info[1])):
            handle(self, record)
        elif not said.is_set():
            said.set()
            sys.stderr.write(f"{file} was left, with all that it served, after the call that is scanned.\n")

    with replaced(logging.Logger, "handle", handled):
        yield


@contextmanager
def released(interception: Interception) -> Iterator[Callable[[], None]]:
    """Inside, a call that another thread makes ends the wait of this one once it was played, until what is
    given says that the script's code is over."""
    here = threading.current_thread()
    in_main = here is threading.main_thread()

    def leave(number: int, frame: types.FrameType | None) -> None:
        if outside.is_set():
            return
        if interception.left.is_set():
            if not leaves_itself():
                raise Unwound
            return
        (before if callable(before) else signal.default_int_handler)(number, frame)

    def release() -> None:
        interception.left.wait()
        told_at.append(time.monotonic())
        while not outside.is_set():  # an event loop swallows what is raised in one of its callbacks
            if not leaves_itself():
                _interrupt(here, in_main)
            outside.wait(AGAIN_S)

    def over() -> None:
        with suppress(Unwound):
            outside.set()
        outside.set()

    def leaves_itself() -> bool:
        """Whether it is about to see it, or on its way, unless its code keeps what it is told."""
        waited = time.monotonic() - told_at[0] if told_at else 0.0
        return here in interception.coming or (here in interception.leavers and waited < PATIENCE_S)

    told_at: list[float] = []
    outside = threading.Event()
    before = signal.signal(signal.SIGINT, leave) if in_main else None
    waker = threading.Thread(target=release, daemon=True, name="diffprof-release")
    waker.start()
    try:
        yield over
    finally:
        over()
        interception.left.set()
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
def told_what_to_do(
    file: Path,
    interception: Interception,
    stopped: Callable[[str], None] = lambda why: None,
    patience_s: float | None = None,
) -> Iterator[None]:
    """Inside, a script that waits and has called nothing for `patience_s` seconds, PATIENCE_S by default, is
    said to, once. One that waits so long after a call that was played is left, and `stopped` told where."""
    patience_s = PATIENCE_S if patience_s is None else patience_s
    ended = threading.Event()
    ident = threading.get_ident()

    def look() -> None:
        idle = Idleness(lambda: time.process_time() + queued_s())
        told = False
        while not (ended.wait(LOOK_S) or interception.left.is_set()):
            if interception.called_in_child():
                stopped("a child process of the script called a pipeline, which is not scanned there")
                interception.leave()
            if idle.look() < patience_s or interception.playing or _loads(ident):
                continue
            if interception.over:
                stopped(f"the script waited for {patience_s:g} seconds{_place(ident)}, and was left")
                interception.leave()
            elif not told:
                told = True
                sys.stderr.write(_advice(file, ident, patience_s))

    threading.Thread(target=look, daemon=True, name="diffprof-look").start()
    try:
        yield
    finally:
        ended.set()


def _place(ident: int) -> str:
    """Where a thread stands in a person's code, as ` at FILE:LINE: CODE`; empty where it is in none."""
    frame = sys._current_frames().get(ident)
    while frame is not None and is_machinery(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return ""
    code = source_line(frame.f_code.co_filename, frame.f_lineno)
    return f" at {frame.f_code.co_filename}:{frame.f_lineno}" + (f": {code}" if code else "")


def _loads(ident: int) -> bool:
    """Whether a thread waits for a model to be loaded."""
    frame = sys._current_frames().get(ident)
    while frame is not None:
        if importable_path(frame.f_code.co_filename)[0].split("/", 1)[0] in LOADERS:
            return True
        frame = frame.f_back
    return False


def _advice(file: Path, ident: int, patience_s: float) -> str:
    return (
        f"{file} has waited for {patience_s:g} seconds{_place(ident)}, and has called no pipeline yet.\n"
        "If it is a server, send it the request that makes a picture: that call is scanned. Otherwise stop "
        "with Ctrl-C, and scan a factory that returns the pipeline and its call (file.py:function).\n"
    )
