"""Watching the calls of a live pipeline, each closely or every so manieth in passing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, overload

from diffprof.devices import resolve_device
from diffprof.live import exporters
from diffprof.live.requests import Request
from diffprof.live.watching import LiveWatch
from diffprof.model.pipeline import Pipeline
from diffprof.scanning.runs import TRACES
from diffprof.scanning.scan import cuda_device_of
from diffprof.scanning.session import Watch


@overload
def watch(pipe: Pipeline, *, device: str | None = None) -> AbstractContextManager[Watch]: ...


@overload
def watch(
    pipe: Pipeline,
    *,
    every: int,
    callback: Callable[[Request], None] | None = None,
    prometheus: Any = False,
    opentelemetry: Any = False,
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
    prometheus: Any = False,
    opentelemetry: Any = False,
    slow_s: float | None = None,
    slow_quantile: float | None = None,
    traces: str | Path | None = TRACES,
) -> AbstractContextManager[Any]:
    """Watch the calls of a live pipeline.

    Without `every`, a context manager for a close look: every call inside the block is observed, and
    `watch.report` judges them: all that is inside is one call of the report, so make one there for the
    figures of one. On a simulated device the pipeline stands there, without values, until the block ends, and
    each wait has its cost, as in a scan. On a real GPU nothing is timed, since calls are neither repeated nor
    profiled: waits have their number and place, and no cost (`diffprof.scan` measures it). On a CPU they are
    those that a GPU would have, without one too.

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
