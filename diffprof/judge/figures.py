"""Figures of a call that several views show: each is told in one place, so that all of them say the same."""

from __future__ import annotations

from diffprof.judge.timeline import length_with_steps_us, replay, total_us
from diffprof.model.recording import Recording


def call_ms(recording: Recording) -> float | None:
    """The length of one call: of its clean passes, or of the imported trace, else the timeline's."""
    if recording.timing is not None and recording.timing.median is not None:
        return recording.timing.median * 1e3
    if recording.timeline is not None and recording.timeline.host_us:
        return total_us(recording.timeline) / 1e3
    return None


def card_call_ms(recording: Recording) -> float | None:
    """The call at the model card's steps, where fewer were made: a step that repeats is put in as often as is
    lacking. None where no two are alike."""
    timeline, steps = recording.timeline, recording.target.card_steps
    if timeline is None or steps is None or not timeline.host_us:
        return None
    whole = length_with_steps_us(timeline, steps)
    return None if whole is None else whole / 1e3


def device_busy(recording: Recording) -> float | None:
    """Share of the call in which the device worked, 0..1."""
    if recording.timing is not None and recording.timing.device_busy is not None:
        return recording.timing.device_busy
    if recording.timeline is None or not recording.timeline.host_us:
        return None
    run = replay(recording.timeline)
    return run.device_busy_us / run.total_us if run.total_us else None
