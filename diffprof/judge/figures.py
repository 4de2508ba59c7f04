"""Figures of a call that several views show: each is told in one place, so that all of them say the same."""

from __future__ import annotations

from diffprof.judge.timeline import replay, total_us
from diffprof.model.recording import Recording


def call_ms(recording: Recording) -> float | None:
    """The length of one call: of its clean passes, or of the imported trace, else the timeline's."""
    if recording.timing is not None and recording.timing.median is not None:
        return recording.timing.median * 1e3
    if recording.timeline is not None and recording.timeline.host_us:
        return total_us(recording.timeline) / 1e3
    return None


def device_busy(recording: Recording) -> float | None:
    """Share of the call in which the device worked, 0..1."""
    if recording.timing is not None and recording.timing.device_busy is not None:
        return recording.timing.device_busy
    if recording.timeline is None or not recording.timeline.host_us:
        return None
    run = replay(recording.timeline)
    return run.device_busy_us / run.total_us if run.total_us else None
