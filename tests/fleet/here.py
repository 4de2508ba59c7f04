"""An engine that runs tasks in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from diffprof.fleet.engine import Result, Task, carried_out


class Here:
    """stop_after: results, after which the person presses Ctrl-C."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.begun: list[str] = []
        self._stop_after = stop_after

    def results(self, tasks: Iterable[Task]) -> Iterator[Result]:
        for task in tasks:
            if len(self.begun) == self._stop_after:
                raise KeyboardInterrupt
            self.begun.append(task.key)
            yield carried_out(task)
