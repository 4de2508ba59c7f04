"""`diffprof.watch(pipe, every=100)`: stage times of requests without a profiler, and one recording."""

from __future__ import annotations

import bisect
import datetime
import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from diffprof.live.following import Following
from diffprof.live.requests import Request, StageClock
from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline

if TYPE_CHECKING:
    from diffprof.live.step_trace import StepTrace
    from diffprof.model.report import Report

LOG = logging.getLogger("diffprof")
KEPT = 1_000
"""Calls from which a quantile is told."""
ENOUGH = 30
"""Calls before one can be slow by the quantile."""

Sink = Callable[[Request], None]


class LiveWatch:
    """Watches the calls of a live pipeline until `close`, or the end of its `with` block.

    every: the stages of every so manieth call are timed; of the others, the whole. sinks: told each call.
    slow: a call that takes longer, in seconds, is slow; below 1 a quantile of the calls so far, such as 0.99.
    After the first slow one, three steps of the next call are recorded by the profiler, and reported in
    `traces`. Safe to use from threads and tasks. Raises UsageError for what can't be watched.
    """

    def __init__(
        self,
        pipe: Pipeline,
        every: int,
        sinks: Sequence[Sink] = (),
        *,
        slow_s: float | None = None,
        slow_quantile: float | None = None,
        traces: Path | None = None,
    ) -> None:
        if every < 1:
            raise UsageError(
                f"every={every} is no number of calls.", "Say 1 for each call, 100 for a hundredth."
            )
        if slow_quantile is not None and not 0.0 < slow_quantile < 1.0:
            raise UsageError(f"slow_quantile={slow_quantile} is no quantile.", "Say such as 0.99.")
        from diffprof.model.pipeline import execution_device

        self.pipeline = type(pipe).__name__
        self.every = every
        self.sinks = tuple(sinks)
        self.slow_s, self.slow_quantile = slow_s, slow_quantile
        self.traces = traces
        self.report: Report | None = None
        """On the slow call's next of kin, once it was recorded."""
        place = execution_device(pipe)
        self._cuda = getattr(place, "type", "cpu") == "cuda"
        self._index: int | None = getattr(place, "index", None)
        """Of the GPU; None: the current one."""
        self._lock = threading.Lock()
        self._count = 0
        self._seconds: deque[float] = deque(maxlen=KEPT)
        self._sorted: list[float] = []
        self._recording = "no"
        """no, next (the next call is to be recorded), done."""
        self._pending: list[tuple[StageClock, dict[str, Any]]] = []
        self._reporter: threading.Thread | None = None
        self._following = Following(pipe, self._call)

    def close(self) -> None:
        """The pipeline is as it was; what is still open is told."""
        self._following.close()
        self._settle(wait=True)
        if self._reporter is not None:
            self._reporter.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one call -----------------------------------------------------------------------------------------

    def _call(self, made: Callable[[], object]) -> Any:
        with self._lock:
            self._count += 1
            number = self._count
            record = self._recording == "next"
            if record:
                self._recording = "done"
        if record:
            return self._recorded(number, made)
        if (number - 1) % self.every:
            return self._timed(number, made, None)
        return self._timed(number, made, StageClock(event=self._event()))

    def _event(self) -> Callable[[], object] | None:
        if not self._cuda:
            return None
        from diffprof.devices.cuda_runtime import RUNTIME

        return lambda: RUNTIME.event(self._gpu())

    def _gpu(self) -> int:
        from diffprof.devices.cuda_runtime import RUNTIME

        return RUNTIME.current() if self._index is None else self._index

    def _timed(self, number: int, made: Callable[[], object], clock: StageClock | None) -> object:
        began, started = time.time(), time.perf_counter()
        error: str | None = None
        try:
            return made() if clock is None else self._following.call(clock, made)
        except BaseException as raised:
            error = type(raised).__name__
            raise
        finally:
            facts = {
                "number": number,
                "began": began,
                "seconds": time.perf_counter() - started,
                "error": error,
            }
            self._ended(clock, facts)

    def _ended(self, clock: StageClock | None, facts: dict[str, Any]) -> None:
        facts["slow"] = facts["error"] is None and self._is_slow(facts["seconds"])
        if clock is None:
            self._tell(Request(self.pipeline, **facts))
        else:
            with self._lock:
                self._pending.append((clock, facts))
        self._settle()

    def _settle(self, *, wait: bool = False) -> None:
        """Tell the sampled calls whose times can be read; a GPU is not waited for, unless asked to."""
        with self._lock:
            ready = [each for each in self._pending if wait or each[0].over()]
            self._pending = [each for each in self._pending if each not in ready]
        for clock, facts in ready:
            if wait and self._cuda:
                from diffprof.devices.cuda_runtime import RUNTIME

                RUNTIME.synchronize(self._gpu())
            self._tell(Request(self.pipeline, stages=clock.stages(), **facts))

    def _tell(self, request: Request) -> None:
        """A sink that fails does not fail the request; it is logged."""
        for sink in self.sinks:
            try:
                sink(request)
            except Exception:
                LOG.exception("diffprof.watch: %r failed on a request", sink)

    # --- slow calls ---------------------------------------------------------------------------------------

    def _is_slow(self, seconds: float) -> bool:
        with self._lock:
            known = len(self._sorted)
            limit = self.slow_s
            if self.slow_quantile is not None and known >= ENOUGH:
                limit = self._sorted[min(int(self.slow_quantile * known), known - 1)]
            if self.slow_quantile is not None:
                self._note(seconds)
            slow = limit is not None and seconds > limit
            if slow and self._recording == "no" and self.traces is not None:
                self._recording = "next"
            return slow

    def _note(self, seconds: float) -> None:
        if len(self._seconds) == KEPT:
            del self._sorted[bisect.bisect_left(self._sorted, self._seconds[0])]
        self._seconds.append(seconds)
        bisect.insort(self._sorted, seconds)

    def _recorded(self, number: int, made: Callable[[], object]) -> object:
        """A call of which three steps are recorded; the report is made beside the server's own work."""
        from diffprof.live.step_trace import StepTrace

        trace = StepTrace(cuda=self._cuda)
        clock = StageClock(event=self._event(), on_step=trace.step_ended)
        try:
            return self._timed(number, made, clock)
        finally:
            trace.close()
            if trace.recorded:
                self._reporter = threading.Thread(target=self._reported, args=(trace,), name="diffprof")
                self._reporter.start()

    def _reported(self, trace: StepTrace) -> None:
        from diffprof.scanning.importing import import_trace
        from diffprof.scanning.storing import store

        assert self.traces is not None
        try:
            with tempfile.TemporaryDirectory(prefix="diffprof-") as scratch:
                file = Path(scratch) / f"{self.pipeline}-slow.json.gz"
                trace.export(file)
                now = datetime.datetime.now(datetime.UTC)
                self.report = store(import_trace(file), self.traces, now=now, trace=file, imported=True)
            LOG.warning("diffprof.watch: a slow call was seen; the next is reported in %s", self.report.path)
        except Exception:
            LOG.exception("diffprof.watch: the recording could not be reported")
