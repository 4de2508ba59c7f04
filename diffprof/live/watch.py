"""Watching the calls of a live pipeline, each closely or every so manieth in passing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import overload

from msgspec.structs import replace

from diffprof.devices import Device, resolve_device
from diffprof.devices.borrow import lent
from diffprof.judge.allowed import watching_blocks
from diffprof.judge.judging import make_report
from diffprof.live import exporters
from diffprof.live.call_clock import CallClock, timing_of_block
from diffprof.live.requests import Request
from diffprof.live.watching import LiveWatch
from diffprof.model.pipeline import Pipeline
from diffprof.model.report import Report
from diffprof.model.runs import TRACES
from diffprof.scanning.scan import cuda_device_of
from diffprof.scanning.session import Session, eager_compiled_parts, observed_calls
from diffprof.targets import Options, from_object
from diffprof.targets.pipeline_call import PipelineCall


@overload
def watch(pipe: Pipeline, *, device: str | None = None) -> AbstractContextManager[Watch]: ...


@overload
def watch(
    pipe: Pipeline,
    *,
    every: int,
    callback: Callable[[Request], None] | None = None,
    prometheus: object = False,
    opentelemetry: object = False,
    slow_s: float | None = None,
    slow_quantile: float | None = None,
    traces: str | Path | None = TRACES,
) -> LiveWatch: ...


def watch(
    pipe: Pipeline,
    *,
    device: str | None = None,
    every: int | None = None,
    callback: Callable[[Request], None] | None = None,
    prometheus: object = False,
    opentelemetry: object = False,
    slow_s: float | None = None,
    slow_quantile: float | None = None,
    traces: str | Path | None = TRACES,
) -> AbstractContextManager[object]:
    """Watch the calls of a live pipeline.

    Without `every`, a context manager for a close look: every call inside the block is observed, and
    `watch.report` judges them: all that is inside is one call of the report, so make one there for the
    figures of one. On a simulated device the pipeline stands there, without values, until the block ends, and
    each wait has its cost, as in a scan. On a CPU and on a real GPU each call and its phases are timed
    (`watch.requests`, the sum in the report) while every operation is looked at, which takes a part of it:
    `diffprof.scan` measures calls alone. Waits have their number and place there, and no cost; on a CPU they
    are those that a GPU would have.

    every: for a server, without a profiler: of every so manieth call, the times of its stages (encode, each
    step, decode), of the others the whole, until `close` or the end of the block. callback: told each call, a
    `Request`. prometheus, opentelemetry: True, or a registry and a tracer. slow_s: calls that take longer, in
    seconds, are slow; slow_quantile: those over a quantile, such as 0.99. After the first slow one, three
    steps of the next call are recorded by the profiler and reported in `traces`; None: they are not.
    """
    if every is None:
        return _watched(pipe, device)
    sinks = [callback] if callback is not None else []
    for chosen, make in ((prometheus, exporters.prometheus), (opentelemetry, exporters.opentelemetry)):
        if chosen is not False:
            sinks.append(make(None if chosen is True else chosen))
    folder = None if traces is None else Path(traces)
    return LiveWatch(pipe, every, sinks, slow_s=slow_s, slow_quantile=slow_quantile, traces=folder)


@contextmanager
def _watched(pipe: Pipeline, device: str | None) -> Iterator[Watch]:
    where = resolve_device(device or cuda_device_of(pipe))
    watching = Watch(pipe, where)
    with where.active(), watching.calls():
        yield watching


class Watch:
    """Calls of a live pipeline, watched closely. report: the judgement of all of them, as one call; None
    until the block ends. requests: each call with its phases, where a clock told them: not on a simulated
    device, whose report has a timeline."""

    def __init__(self, pipe: Pipeline, device: Device) -> None:
        self.pipe = pipe
        self.device = device
        self.report: Report | None = None
        self.requests: tuple[Request, ...] = ()

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Inside, each call of the pipeline is recorded; `report` is there when the block ends."""
        target = from_object(self.pipe)
        session = Session(target, self.device, Options())
        session.call = PipelineCall(pipe=self.pipe, args=(), kwargs={}, target=target, weights="real")
        clock = CallClock(self.pipe, self.device)
        with ExitStack() as stack:
            stack.callback(self._finish, session, clock)
            session.blocks = stack.enter_context(watching_blocks())
            stack.enter_context(lent(self.pipe, self.device))
            stack.enter_context(eager_compiled_parts())
            _, tracker = stack.enter_context(observed_calls(session, session.call))
            if self.device.gpu is None:
                stack.enter_context(clock.running(tracker))
            yield

    def _finish(self, session: Session, clock: CallClock) -> None:
        """The block is the report's call: how many images its calls made, nobody was told."""
        self.requests = clock.requests()
        if self.requests:
            session.add({"timing": timing_of_block(self.requests)}, "watch")
        recording = session.recording()
        target = replace(recording.target, makes=None, made=1)
        self.report = make_report(replace(recording, target=target))

    def __repr__(self) -> str:
        return f"<Watch {type(self.pipe).__name__}: {self.report or 'no report yet'}>"
