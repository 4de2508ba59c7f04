"""Forwards of denoisers that do the same in each step are run twice, and told again after that."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from diffprof.devices.simulated import Observer
from diffprof.devices.simulated.forward_replay import replaying
from diffprof.model.pipeline import Pipeline, with_role
from diffprof.targets.pipeline import PhaseTracker


def repeating(pipe: Pipeline, observer: Observer, tracker: PhaseTracker) -> AbstractContextManager[None]:
    """Inside, denoisers whose steps launch the same run twice; the observer is told of the others."""
    return replaying(with_role(pipe, "denoiser").values(), observer, _last_forward(pipe, tracker))


def _last_forward(pipe: Pipeline, tracker: PhaseTracker) -> Callable[[int], bool]:
    """Whether a denoiser that was called so often, once a step, is in the last of its scheduler's steps."""
    schedulers = with_role(pipe, "scheduler").values()

    def is_last(calls: int) -> bool:
        steps = [getattr(each, "timesteps", None) for each in schedulers]
        step = tracker.current.step
        return step == calls - 1 and any(s is not None and tuple(s.shape[:1]) == (calls,) for s in steps)

    return is_last
