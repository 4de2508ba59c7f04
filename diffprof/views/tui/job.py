"""A diffprof command in a process of its own, with its progress. The viewer itself stays without torch."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from diffprof.progress import DESCRIPTOR

_MOST_TALK = 200
"""Lines of stderr kept."""


@dataclass(frozen=True)
class Ended:
    """How the process ended. code: its exit status, negative for a signal."""

    code: int
    output: bytes
    talk: tuple[str, ...]
    """The last lines of its stderr."""


@dataclass
class Job:
    """One command. program: what is started with `args`."""

    args: Sequence[str]
    title: str
    program: Sequence[str] = (sys.executable, "-m", "diffprof")
    talk: list[str] = field(default_factory=list)
    stopping: bool = False
    _process: asyncio.subprocess.Process | None = None

    async def run(self, told: Callable[[dict | None], None]) -> Ended:
        """Start it and wait for its end.

        told: called with each piece of progress (see `diffprof.progress.Lines`), with None when it said
        something on stderr.
        """
        reader, writer = os.pipe()
        environment = {**os.environ, DESCRIPTOR: str(writer)}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self.program,
                *self.args,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                pass_fds=(writer,),
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        process = self._process
        assert process.stdout
        assert process.stderr
        try:
            output, *_ = await asyncio.gather(
                process.stdout.read(), self._hear(process.stderr, told), self._follow(reader, told)
            )
            code = await process.wait()
        finally:
            if process.returncode is None:
                self._signal(signal.SIGKILL)
        return Ended(code, output, tuple(self.talk))

    async def _hear(self, stream: asyncio.StreamReader, told: Callable[[dict | None], None]) -> None:
        """Lines of stderr; what overwrites itself on a terminal is a line as well."""
        rest = ""
        while chunk := await stream.read(65_536):
            *lines, rest = (rest + chunk.decode(errors="replace")).replace("\r", "\n").split("\n")
            rest = rest[-10_000:]
            self.talk += [line for line in lines if line.strip()]
            del self.talk[:-_MOST_TALK]
            told(None)
        if rest.strip():
            self.talk.append(rest)

    async def _follow(self, descriptor: int, told: Callable[[dict | None], None]) -> None:
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        pipe = os.fdopen(descriptor, "rb", 0)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
        try:
            while line := await stream.readline():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if isinstance(entry, dict):
                    told(entry)
        finally:
            transport.close()

    def stop(self) -> None:
        """Ask it to stop, as Ctrl-C does, so that it keeps what it has; the second time, end it."""
        self._signal(signal.SIGKILL if self.stopping else signal.SIGINT)
        self.stopping = True

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            try:
                os.killpg(self._process.pid, number)
            except ProcessLookupError:
                pass
