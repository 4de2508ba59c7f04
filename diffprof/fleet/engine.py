"""Independent tasks, run elsewhere; their results come back one by one, to one place.

An engine is anything with `results(tasks)`. There are two: `Processes` of this machine, and
`diffprof.fleet.ray_engine.RayCluster`. A task that fails, or whose worker dies, gives a result that says so;
the others go on. Closing the iterator, as an exception in its loop does, ends what still runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol

from diffprof.model.errors import DiffprofError
from diffprof.targets.room import room

SHARE = 0.85
"""Of the memory that is available when the work begins: what tasks may be expected to take together."""

TRIES = 2
"""Times that a task is begun whose worker dies: it may have been ended for the memory of another."""


class Task(NamedTuple):
    """function(*arguments), both picklable. memory: bytes that it takes at most, as far as is known."""

    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    memory: int = 0


class Result(NamedTuple):
    """What a task gave, or why it gave nothing. seconds: that it ran."""

    key: str
    value: Any = None
    error: str | None = None
    seconds: float = 0.0


class Engine(Protocol):
    """Where tasks run."""

    def results(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """One result a task, in the order in which they end."""


def carried_out(task: Task) -> Result:
    """The task's result, in this process; what it raises is told in the result."""
    started = time.perf_counter()
    try:
        value, error = task.function(*task.arguments), None
    except DiffprofError as refused:
        value, error = None, f"{refused.what} {refused.hint or ''}".rstrip()
    except (Exception, SystemExit) as failed:
        value, error = None, f"{type(failed).__name__}: {failed}"
    return Result(task.key, value, error, time.perf_counter() - started)


def cores() -> int:
    """That this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


@dataclass
class _Worker:
    process: Any
    connection: Connection
    task: Task | None = None


@dataclass
class Processes:
    """Processes of this machine, one a core, kept until all is done.

    preload: modules that are imported once, where processes can share them. Only so many tasks run together
    as fit the memory; a task that fits nowhere is not begun.
    """

    workers: int = field(default_factory=cores)
    memory: int | None = None
    """Bytes for all tasks; None: a share of what is available when the work begins."""
    preload: Sequence[str] = ()

    def results(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """One result a task, in the order in which they end."""
        budget = int(SHARE * room()[0]) if self.memory is None else self.memory
        crew = _Crew(self.workers, budget, list(self.preload))
        try:
            yield from crew.through(deque(tasks))
        finally:
            crew.dismiss()


class _Crew:
    """The workers of one run of an engine."""

    def __init__(self, workers: int, budget: int, preload: list[str]) -> None:
        self._context: Any = multiprocessing.get_context(_start_method())
        if preload and hasattr(self._context, "set_forkserver_preload"):
            self._context.set_forkserver_preload(preload)
        self._preload = preload
        self._size = max(1, workers)
        self._budget = budget
        self._workers: list[_Worker] = []
        self._tries: dict[str, int] = {}

    def through(self, waiting: deque[Task]) -> Iterator[Result]:
        """Everything, until nothing waits or runs."""
        while waiting or self._running():
            yield from self._refused(waiting)
            while waiting and self._room_for(waiting[0]):
                self._begin(waiting.popleft())
            if self._running():
                yield from self._ended(waiting)

    def _running(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.task is not None]

    def _refused(self, waiting: deque[Task]) -> Iterator[Result]:
        while waiting and waiting[0].memory > self._budget:
            task = waiting.popleft()
            need, have = task.memory / 2**30, self._budget / 2**30
            yield Result(task.key, error=f"not begun: it may take {need:.1f} GiB, and there are {have:.1f}")

    def _room_for(self, task: Task) -> bool:
        running = self._running()
        if not running:
            return True
        if len(running) >= self._size or any(self._tries.get(w.task.key) for w in running if w.task):
            return False
        if self._tries.get(task.key):
            return False  # It is tried again alone, so that its end is nobody else's.
        return sum(w.task.memory for w in running if w.task) + task.memory <= self._budget

    def _begin(self, task: Task) -> None:
        worker = next((each for each in self._workers if each.task is None), None) or self._hired()
        worker.task = task
        try:
            worker.connection.send(task)
        except OSError:
            return  # It is dead; that is seen where its end is awaited.

    def _hired(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(theirs, self._preload), daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_Worker(process, ours))
        return self._workers[-1]

    def _ended(self, waiting: deque[Task]) -> Iterator[Result]:
        """Wait for some to end."""
        by_connection = {worker.connection: worker for worker in self._running()}
        for ready in wait(list(by_connection)):
            worker = by_connection[ready]  # type: ignore[index]
            task, worker.task = worker.task, None
            assert task is not None
            try:
                yield worker.connection.recv()
            except (EOFError, OSError):
                yield from self._lost(worker, task, waiting)

    def _lost(self, worker: _Worker, task: Task, waiting: deque[Task]) -> Iterator[Result]:
        self._workers.remove(worker)
        worker.process.join()
        self._tries[task.key] = tries = self._tries.get(task.key, 0) + 1
        if tries < TRIES:
            waiting.append(task)
            return
        yield Result(task.key, error=f"its process ended {_how(worker.process.exitcode)}, {tries} times")

    def dismiss(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker.task is not None:
                worker.process.kill()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join()


def _start_method() -> str:
    """A fork of a process that has imported what is shared, where the system has it: a fork of this one
    would copy its threads' locks."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"by {signal.Signals(-code).name}"
    return f"with status {code}"


def _serve(connection: Connection, preload: Sequence[str]) -> None:
    """A worker's life: task after task, until nobody asks any more. Ctrl-C is the starter's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    broken = _not_imported(preload)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(_sendable(Result(task.key, error=broken) if broken else carried_out(task)))


def _not_imported(names: Sequence[str]) -> str | None:
    """Why these modules can't be imported; None where they can."""
    try:
        for name in names:
            import_module(name)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _sendable(result: Result) -> object:
    """The result, or, where it can't be pickled, one that says so."""
    from multiprocessing.reduction import ForkingPickler

    try:
        ForkingPickler.dumps(result)
    except Exception as error:
        return result._replace(value=None, error=f"its result can't be sent: {error}")
    return result
