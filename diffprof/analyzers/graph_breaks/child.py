"""Run a function in a forked child and receive what it sends.

Graph capture changes the state of Dynamo, its counters and its configuration, and leaves compiled code on
the functions that it went through. In a child it changes a copy: the process that asked is untouched, keeps
the code that it compiled itself, and outlives a crash or a capture that never ends.

Forked, not spawned: a pipeline with its hooks, closures and classes from a script can't be pickled. Of the
parent's threads only the forking one goes on in the child, so nothing there may wait for another one: OpenMP
is told to use one thread, CUDA counts as absent, streams are new, and the child ends without handlers.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import selectors
import signal
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

Send = Callable[[Any], None]

_HEAD = struct.Struct("!Q")

STILL_SECONDS = 60.0
"""A child that uses no CPU for so long waits for something that never comes."""


@dataclass
class ChildJob:
    """name: for messages. work: called in the child with a function that sends an object to the parent.
    failure: why it ended early, once it has."""

    name: str
    work: Callable[[Send], None]
    received: list[Any] = field(default_factory=list)
    failure: str | None = None
    seconds: float = 0.0


@dataclass
class _Running:
    job: ChildJob
    pid: int
    pipe: int
    started: float
    buffer: bytearray = field(default_factory=bytearray)
    done: bool = False
    cpu_seconds: float = 0.0
    worked: float = 0.0
    """When it was last seen to have used CPU."""

    def look(self) -> None:
        """Take the CPU time that it has used until now."""
        now = time.monotonic()
        used = _cpu_seconds(self.pid)
        used = now - self.started if used is None else used
        if used > self.cpu_seconds:
            self.cpu_seconds, self.worked = used, now


_COMPILER = (
    *("torch._dynamo", "torch._dynamo.backends.inductor", "torch._dynamo.repro.after_dynamo"),
    *("torch._functorch.aot_autograd", "torch._higher_order_ops.passes", "functorch.compile"),
    *("torch.distributed.tensor.experimental", "torch.export._trace"),
)
"""What Dynamo imports when it first compiles, in 0.7 s on torch 2.13."""


def import_compiler() -> None:
    """Import once what else each child would import by itself. Modules that this torch lacks are left out."""
    for name in _COMPILER:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def can_fork() -> bool:
    """Whether this platform can run work in a forked child."""
    return hasattr(os, "fork") and sys.platform != "win32"


def run_in_children(
    jobs: Sequence[ChildJob],
    *,
    at_once: int,
    limit_seconds: float,
    on_message: Callable[[ChildJob, object], None] = lambda job, message: None,
) -> None:
    """Run the jobs, `at_once` at a time; each job gets what it sent, and its failure if it had one.

    A job that uses more CPU time than limit_seconds is ended, and keeps what it sent until then: a machine
    that is busy with other work takes nothing off the limit. So is one that stands still.
    """
    waiting = list(jobs)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.pop(0), running))
            _receive(running, on_message)
            for each in list(running):
                each.look()
                if each.done or _too_long(each, limit_seconds):
                    running.remove(each)
                    _finish(each, limit_seconds)
    finally:
        for each in running:
            _end(each)


def _too_long(each: _Running, limit_seconds: float) -> str:
    """Why a job is ended early; empty as long as it is not."""
    if each.cpu_seconds > limit_seconds:
        return f"it took longer than {limit_seconds:.0f} s of CPU time"
    if time.monotonic() - each.worked > STILL_SECONDS:
        return f"it stood still for {STILL_SECONDS:.0f} s"
    return ""


def _cpu_seconds(pid: int) -> float | None:
    """CPU time that a process has used; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            figures = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(figures[11]) + int(figures[12])) / os.sysconf("SC_CLK_TCK")


def _start(job: ChildJob, others: Sequence[_Running]) -> _Running:
    read, write = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    with warnings.catch_warnings():
        # The child only ever runs the forking thread; what Python warns of are locks of the other ones.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(read)
        for other in others:
            os.close(other.pipe)
        _child(job, write)
    os.close(write)
    now = time.monotonic()
    return _Running(job, pid, read, now, worked=now)


def _child(job: ChildJob, write: int) -> NoReturn:
    """Never returns: neither handlers at exit nor the caller's `finally` may run a second time."""
    status = 1
    try:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if callable(signal.getsignal(getattr(signal, name))):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115

        def send(message: object) -> None:
            _write(write, pickle.dumps(("message", message)))

        try:
            job.work(send)
            _write(write, pickle.dumps(("end", None)))
        except BaseException as error:
            _write(write, pickle.dumps(("end", _described(error))))
        status = 0
    finally:
        os._exit(status)


def _write(write: int, data: bytes) -> None:
    left = memoryview(_HEAD.pack(len(data)) + data)
    while left:
        left = left[os.write(write, left) :]


def _described(error: BaseException) -> str:
    """Its kind and message, and the innermost line outside of PyTorch."""
    lines = [f for f in traceback.extract_tb(error.__traceback__) if "/torch/" not in f.filename]
    where = f" at {os.path.basename(lines[-1].filename)}:{lines[-1].lineno}" if lines else ""
    text = str(error).strip().split("\n", 1)[0]
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


def _receive(running: Sequence[_Running], on_message: Callable[[ChildJob, object], None]) -> None:
    with selectors.DefaultSelector() as selector:
        for each in running:
            selector.register(each.pipe, selectors.EVENT_READ, each)
        for key, _ in selector.select(timeout=0.5):
            each = key.data
            data = os.read(each.pipe, 1 << 20)
            each.buffer += data
            if not data:
                each.done = True
            _unpack(each, on_message)


def _unpack(each: _Running, on_message: Callable[[ChildJob, object], None]) -> None:
    while len(each.buffer) >= _HEAD.size:
        (size,) = _HEAD.unpack_from(each.buffer)
        if len(each.buffer) < _HEAD.size + size:
            return
        kind, value = pickle.loads(bytes(each.buffer[_HEAD.size : _HEAD.size + size]))
        del each.buffer[: _HEAD.size + size]
        if kind == "end":
            each.job.failure = value
            each.done = True
            each.job.seconds = time.monotonic() - each.started
        else:
            each.job.received.append(value)
            on_message(each.job, value)


def _finish(each: _Running, limit_seconds: float) -> None:
    ended = bool(each.job.seconds)
    status = _end(each)
    if ended:
        return
    each.job.seconds = time.monotonic() - each.started
    if not each.done:
        each.job.failure = _too_long(each, limit_seconds)
    elif os.WIFSIGNALED(status):
        each.job.failure = f"the process crashed ({signal.Signals(os.WTERMSIG(status)).name})"
    else:
        each.job.failure = "the process ended without a result"


def _end(each: _Running) -> int:
    os.close(each.pipe)
    if not each.done:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
    return os.waitpid(each.pid, 0)[1]
