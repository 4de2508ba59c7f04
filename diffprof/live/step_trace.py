"""A trace of a few denoising steps: small enough to keep and to send."""

from __future__ import annotations

from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function

from diffprof.chrome_trace.events import CallPart, phase_label


class StepTrace:
    """Profiles the steps after the first of a call, with stacks. steps: how many; cuda: whether a GPU works.

    Told by `step_ended` how many steps have ended; what goes before and after them is not recorded.
    """

    def __init__(self, steps: int = 3, *, cuda: bool = False, first: int = 1) -> None:
        self.steps = steps
        self.first = first
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._profiler = profile(activities=activities, record_shapes=True, with_stack=True)
        self._label: record_function | None = None
        self._running = False
        self.recorded = 0

    def step_ended(self, done: int) -> None:
        """`done` steps of the call have ended."""
        if self._running:
            self.recorded += 1
            self._end_label()
        if done == self.first:
            self._profiler.start()
            self._running = True
        if self._running and self.recorded < self.steps:
            self._label = record_function(phase_label(CallPart("denoise", done, None)))
            self._label.__enter__()
        else:
            self.close()

    def close(self) -> None:
        """The call is over, whether or not all steps were there."""
        self._end_label()
        if self._running:
            self._running = False
            self._profiler.stop()

    def _end_label(self) -> None:
        if self._label is not None:
            self._label.__exit__(None, None, None)
            self._label = None

    def export(self, file: Path) -> None:
        """Write the trace (`.json.gz`), once closed."""
        self._profiler.export_chrome_trace(str(file))
