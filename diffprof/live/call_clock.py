"""Times of the calls of one pipeline by phase, while a tracker follows them."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from diffprof.devices import Device, cuda_runtime
from diffprof.live.requests import Mark, Request, RequestStage, between
from diffprof.model.pipeline import Pipeline, replaced
from diffprof.model.recording import Doubt, Grade, PhaseTime, Timing
from diffprof.targets.pipeline import Phase, PhaseTracker


@dataclass
class _Call:
    """marks: each phase with the moment at which it began."""

    began: float
    marks: list[tuple[Phase, Mark]]
    end: Mark | None = None
    error: str | None = None


@dataclass
class CallClock:
    """Notes when the calls of a pipeline and their phases begin and end, without waiting for a device: on a
    GPU by events on its stream, on the CPU, which works in step with Python, by its clock."""

    pipe: Pipeline
    device: Device
    calls: list[_Call] = field(default_factory=list)

    @contextmanager
    def running(self, tracker: PhaseTracker) -> Iterator[None]:
        """Calls inside are timed; the tracker follows them."""
        call, before = type(self.pipe).__call__, tracker.on_change

        @functools.wraps(call)
        def called(this: Any, *args: object, **kwargs: object) -> object:
            if this is not self.pipe or self._open:
                return call(this, *args, **kwargs)
            own = _Call(time.time(), [(Phase("prepare"), self._mark())])
            self.calls.append(own)
            try:
                return call(this, *args, **kwargs)
            except BaseException as error:
                own.error = type(error).__name__
                raise
            finally:
                own.end = self._mark()

        def changed(phase: Phase) -> None:
            if self._open:
                self.calls[-1].marks.append((phase, self._mark()))
            if before is not None:
                before(phase)

        with replaced(type(self.pipe), "__call__", called), replaced(tracker, "on_change", changed):
            yield

    @property
    def _open(self) -> bool:
        return bool(self.calls) and self.calls[-1].end is None

    def _mark(self) -> Mark:
        event = None
        if self.device.kind == "cuda":
            event = cuda_runtime.RUNTIME.event(self.device.index)  # type: ignore[attr-defined]
        return self.device.clock(), event

    def requests(self) -> tuple[Request, ...]:
        """What was noted. Waits for the device: not to be called while its waits are observed."""
        self.device.synchronize()
        name = type(self.pipe).__name__
        return tuple(_request(name, number, call) for number, call in enumerate(self.calls, 1))


def _request(pipeline: str, number: int, call: _Call) -> Request:
    assert call.end is not None
    began = call.marks[0][1]
    ends = [mark for _, mark in call.marks[1:]] + [call.end]
    stages = (
        RequestStage(phase.name, between(began, start), between(start, end), phase.step, phase.part)
        for (phase, start), end in zip(call.marks, ends, strict=True)
    )
    return Request(
        pipeline=pipeline,
        number=number,
        began=call.began,
        seconds=between(began, call.end),
        stages=tuple(stages),
        error=call.error,
    )


def timing_of_block(requests: Sequence[Request]) -> Timing:
    """All of the requests as one call."""
    phases: dict[tuple[str, str | None], float] = {}
    for stage in (stage for request in requests for stage in request.stages):
        key = stage.name, stage.part
        phases[key] = phases.get(key, 0.0) + stage.seconds
    whole = sum(request.seconds for request in requests)
    return Timing(
        grade=Grade.MEASURED,
        seconds=(whole,),
        median=whole,
        doubts=(Doubt.WATCHED,),
        phases=tuple(PhaseTime(phase=name, part=part, seconds=s) for (name, part), s in phases.items()),
    )
