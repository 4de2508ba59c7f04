"""A call made again and again: it starts from the same state, and holds on to nobody's wrappers."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

from diffprof.model.pipeline import replaced
from diffprof.targets.pipeline_call import PipelineCall


class Stepping:
    """A scheduler that counts."""

    def __init__(self) -> None:
        self.order = 1
        self.timesteps = [2, 1]
        self.config: dict[str, Any] = {}
        self.index = 0
        self.seen: list[int] = []

    def set_timesteps(self, steps: int) -> None:
        self.index = 0

    def step(self, sample: int) -> int:
        self.index += 1
        self.seen.append(sample)
        return self.index


class Pipe:
    def __init__(self) -> None:
        self.scheduler = Stepping()
        self.components = {"scheduler": self.scheduler}

    def __call__(self) -> int:
        return self.scheduler.step(1) + self.scheduler.step(2)


def call() -> PipelineCall:
    return PipelineCall(pipe=Pipe(), args=(), kwargs={}, target=None, weights="real")  # type: ignore[arg-type]


def test_every_call_starts_from_the_same_state() -> None:
    one = call()
    assert [one.run(), one.run()] == [3, 3]
    assert one.pipe.scheduler.seen == [1, 2]


def test_what_watched_the_first_call_does_not_come_back() -> None:
    one = call()
    scheduler = one.pipe.scheduler
    watched = []

    def step(sample: int) -> int:
        watched.append(sample)
        return Stepping.step(scheduler, sample)

    with replaced(scheduler, "step", step):
        one.run()
    one.run()
    assert watched == [1, 2]
    assert "step" not in vars(scheduler)


def test_a_method_that_was_replaced_since_the_first_call_stays() -> None:
    one = call()
    one.run()
    one.pipe.scheduler.step = lambda sample: 10
    assert one.run() == 20
