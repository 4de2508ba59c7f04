"""A diffprof command in a process of its own, with its progress. The viewer itself stays without torch."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from diffprof.model.progress import DESCRIPTOR

Told = Callable[[dict | None], None]
_MOST_TALK = 200
"""Lines of stderr kept."""
_GRACE = 1.0
"""Seconds that its pipes are read after the process has ended: what it leaves behind may hold them open."""
_LOOK = 0.03
"""Seconds between looks at whether it has ended."""


def can_run() -> bool:
    """Whether this system can give a command a session, signals and pipes of its own, as a job needs."""
    return hasattr(os, "killpg") and hasattr(signal, "SIGKILL")


@dataclass(frozen=True)
class Ended:
    """How the process ended. code: its exit status, negative for a signal."""

    code: int
    output: bytes
    talk: tuple[str, ...]
    """The last lines of its stderr."""


@dataclass
class Job:
    """One command. program: what is started with `args`. columns: of the screen that its output is for; None:
    as the viewer's own environment says."""

    args: Sequence[str]
    title: str
    program: Sequence[str] = (sys.executable, "-m", "diffprof")
    columns: int | None = None
    talk: list[str] = field(default_factory=list)
    stopping: bool = False
    _process: subprocess.Popen[bytes] | None = None

    async def run(self, told: Told) -> Ended:
        """Start it and wait for its end.

        told: called with each piece of progress (see `diffprof.model.progress.Lines`), with None when it said
        something on stderr.
        """
        pipes = [os.pipe() for _ in range(3)]
        (_, stdout), (_, stderr), (_, progress) = pipes
        sized = {} if self.columns is None else {"COLUMNS": str(self.columns)}
        try:
            self._process = process = subprocess.Popen(
                [*self.program, *self.args],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **sized, DESCRIPTOR: str(progress)},
                pass_fds=(progress,),
                start_new_session=True,
                preexec_fn=_interruptible,
            )
        except BaseException:
            for reader, _ in pipes:
                os.close(reader)
            raise
        finally:
            for _, writer in pipes:
                os.close(writer)
        output = bytearray()
        work = (_collect(pipes[0][0], output), self._hear(pipes[1][0], told), _follow(pipes[2][0], told))
        readers = [asyncio.create_task(each) for each in work]
        try:
            while process.poll() is None:
                await asyncio.sleep(_LOOK)
            await asyncio.wait(readers, timeout=_GRACE)
        finally:
            self._signal(signal.SIGKILL)
            for task in readers:
                task.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
        return Ended(process.wait(), bytes(output), tuple(self.talk))

    async def _hear(self, descriptor: int, told: Told) -> None:
        """Lines of stderr; what overwrites itself on a terminal is a line as well."""
        rest = ""
        async with _reading(descriptor) as stream:
            while chunk := await stream.read(65_536):
                *lines, rest = (rest + chunk.decode(errors="replace")).replace("\r", "\n").split("\n")
                rest = rest[-10_000:]
                self.talk += [line for line in lines if line.strip()]
                del self.talk[:-_MOST_TALK]
                told(None)
        if rest.strip():
            self.talk.append(rest)

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C does, so that it keeps what it has; the second time, end it."""
        self._signal(signal.SIGKILL if self.stopping else signal.SIGINT)
        self.stopping = True

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass


def _interruptible() -> None:
    """In the new process: a shell starts what runs in the background with Ctrl-C ignored, and a child would
    inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@asynccontextmanager
async def _reading(descriptor: int) -> AsyncIterator[asyncio.StreamReader]:
    """The reading end of a pipe, closed afterwards."""
    stream = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", 0)
    )
    try:
        yield stream
    finally:
        transport.close()


async def _collect(descriptor: int, found: bytearray) -> None:
    async with _reading(descriptor) as stream:
        while chunk := await stream.read(65_536):
            found += chunk


async def _follow(descriptor: int, told: Told) -> None:
    """Progress, a JSON object a line; anything else there is passed over."""
    async with _reading(descriptor) as stream:
        while line := await stream.readline():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if isinstance(entry, dict):
                told(entry)
