"""What a long piece of work says while it runs."""

from __future__ import annotations

import json
import os
import threading
from typing import Any, Self, TextIO

DELAY = 1.0
"""Seconds before anything is shown; shorter work stays silent."""
DESCRIPTOR = "DIFFPROF_PROGRESS_FD"
"""Environment variable with the number of an open file descriptor: another program shows the progress."""


class Progress:
    """Told what goes on; shows nothing. Use as a context manager, or call close()."""

    @staticmethod
    def silent() -> Progress:
        """One that shows nothing."""
        return Progress()

    def part(self, name: str, title: str, place: str = "") -> None:
        """A part of the work begins, such as a fix that is tried: the stages after it belong to it. place:
        which of how many."""
        self.stage(f"{name}: {title}")

    def stage(self, name: str, total: int | None = None) -> None:
        """A new piece of work begins, such as "importing diffusers"; total: its steps, if known."""

    def step(self, detail: str = "", amount: int = 1) -> None:
        """That many steps of the stage are done. detail: what is being done now."""

    def close(self) -> None:
        """Done, or given up: the line is taken off the screen."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Bar(Progress):
    """A bar on a terminal, shown from the moment that the work has taken DELAY seconds."""

    def __init__(self, stream: TextIO, *, delay: float = DELAY) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._part = ""
        self._name = "starting"
        self._total: int | None = None
        self._done = 0
        self._shown: Any = None
        self._task: Any = None
        self._closed = False
        self._timer = threading.Timer(delay, self._show)
        self._timer.daemon = True
        self._timer.start()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        with self._lock:
            if self._closed:
                return
            self._shown = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(),
                console=Console(file=self._stream),
                transient=True,
                refresh_per_second=4,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._shown.add_task(
                self._name, total=self._total, completed=self._done, count=self._count()
            )
            self._shown.start()

    def _count(self) -> str:
        if self._total:
            return f"{self._done}/{self._total}"
        return f"{self._done}" if self._done else ""

    def part(self, name: str, title: str, place: str = "") -> None:
        self._part = f"{place} {name}: ".lstrip()
        self.stage(title)

    def stage(self, name: str, total: int | None = None) -> None:
        from diffprof.model.plain import clean

        with self._lock:
            self._name, self._total, self._done = clean(self._part + name), total, 0
            if self._shown:
                # One line for all stages, so that its clock shows the whole time.
                self._shown.tasks[0].total = total
                self._shown.update(self._task, completed=0, description=self._name, count=self._count())

    def step(self, detail: str = "", amount: int = 1) -> None:
        from diffprof.model.plain import clean

        with self._lock:
            self._done += amount
            if self._shown:
                name = f"{self._name}: {clean(detail)}" if detail else self._name
                self._shown.update(self._task, completed=self._done, description=name, count=self._count())

    def close(self) -> None:
        self._timer.cancel()
        with self._lock:
            self._closed = True
            if self._shown:
                self._shown.stop()
                self._shown = None


class Lines(Progress):
    """Progress for another program: one JSON object a line on a file descriptor.

    `{"stage": name, "total": steps or null}` begins a stage, `{"step": detail, "amount": steps}` goes on in
    it. When nobody reads any more, nothing is written.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        try:
            os.set_inheritable(descriptor, False)
        except OSError:
            self._descriptor = None

    def _write(self, **entry: object) -> None:
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, json.dumps(entry).encode() + b"\n")
        except OSError:
            self._descriptor = None

    def stage(self, name: str, total: int | None = None) -> None:
        self._write(stage=name, total=total)

    def step(self, detail: str = "", amount: int = 1) -> None:
        self._write(step=detail, amount=amount)


def progress_on(stream: TextIO, *, quiet: bool = False) -> Progress:
    """A bar where somebody can see it; lines for the program that asks for them with DESCRIPTOR."""
    descriptor = os.environ.pop(DESCRIPTOR, "")  # not for processes that the target starts
    if descriptor.isdecimal():
        return Lines(int(descriptor))
    return Progress() if quiet or not stream.isatty() else Bar(stream)
