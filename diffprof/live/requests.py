"""One call of a watched pipeline, in times."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffprof.devices.cuda_runtime import Event


@dataclass(frozen=True)
class RequestStage:
    """encode, step, decode or postprocess; of a call that was watched closely a phase, with the part of a
    step: denoiser, scheduler, None between them. start: seconds after the call began; seconds: how long;
    step: which denoising step, from 0."""

    name: str
    start: float
    seconds: float
    step: int | None = None
    part: str | None = None


@dataclass(frozen=True)
class Request:
    """One call. number: from 1. began: seconds since the epoch. seconds: as the caller waited. stages: empty
    where the call was not sampled; on a GPU, by its own clock. error: name of what it raised."""

    pipeline: str
    number: int
    began: float
    seconds: float
    stages: tuple[RequestStage, ...] = ()
    slow: bool = False
    error: str | None = None


Mark = tuple[float, Any]
"""(host clock, the GPU's event or None)."""


@dataclass
class StageClock:
    """Notes when the stages of one call begin and end. event: makes an event on the GPU's stream, None on a
    CPU: the host's clock would tell when work was launched, not when it was done."""

    event: Callable[[], Event] | None = None
    on_step: Callable[[int], None] | None = None
    """Told how many steps have ended."""
    clock: Callable[[], float] = time.perf_counter
    noted: list[tuple[str, Mark, Mark, int | None]] = field(default_factory=list)
    steps: int = 0
    _open: list[Mark] = field(default_factory=list)
    _boundary: Mark | None = None

    def __post_init__(self) -> None:
        self.began = self._mark()

    def _mark(self) -> Mark:
        return self.clock(), self.event() if self.event is not None else None

    def enter(self) -> None:
        self._open.append(self._mark())

    def leave(self, stage: str) -> None:
        start = self._open.pop()
        if not self._open:
            self._boundary = self._mark()
            self.noted.append((stage, start, self._boundary, None))

    def loop(self) -> None:
        self._boundary = self._mark()

    def stepped(self) -> None:
        end = self._mark()
        self.noted.append(("step", self._boundary or self.began, end, self.steps))
        self._boundary = end
        self.steps += 1
        if self.on_step is not None:
            self.on_step(self.steps)

    def over(self) -> bool:
        """Whether the GPU has done what was noted, so that its times can be read without waiting."""
        last = self.noted[-1][2][1] if self.noted else None
        return last is None or bool(last.query())

    def stages(self) -> tuple[RequestStage, ...]:
        """In the order in which they ended."""
        return tuple(
            RequestStage(name, between(self.began, start), between(start, end), step)
            for name, start, end, step in self.noted
        )


def between(one: Mark, other: Mark) -> float:
    """Seconds: by the GPU's events, which it must have reached, where both have one; else by the CPU."""
    if one[1] is not None and other[1] is not None:
        return float(one[1].elapsed_time(other[1])) / 1e3
    return other[0] - one[0]
