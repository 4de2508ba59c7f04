"""What half precision itself does to an output: told, or said to be unknown, and never taken for nothing."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from diffprof.model.fix import Difference, Safety
from diffprof.tuning.engine import Tuning
from diffprof.tuning.trial import RoundingUnknown, Trial


class Half:
    """A pipeline of one bfloat16 layer."""

    def __init__(self) -> None:
        self.unet = torch.nn.Linear(4, 4, dtype=torch.bfloat16)

    @property
    def components(self) -> dict[str, Any]:
        return {"unet": self.unet}


def trial_of(output: Any) -> Trial:
    trial = Trial.__new__(Trial)
    trial.subject = types.SimpleNamespace(pipe=Half(), park=lambda: None)  # type: ignore[assignment]
    trial.output = output  # type: ignore[method-assign]
    trial._incomparable = "it gives words"
    return trial


def raising(error: Exception) -> Any:
    def output() -> Any:
        raise error

    return output


@pytest.mark.parametrize(
    ("output", "why"),
    [
        (
            raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")),
            "it ran out of memory",
        ),
        (raising(ValueError("no float32 kernel")), "it raised ValueError"),
        (lambda: None, "it gives words"),
    ],
)
def test_a_float32_pipeline_that_does_not_run_leaves_the_rounding_unknown(output: Any, why: str) -> None:
    trial = trial_of(output)
    trial.difference = lambda *_: Difference(compared_on="cuda:0")  # type: ignore[method-assign]
    with pytest.raises(RoundingUnknown, match=why):
        trial.rounding(object())  # type: ignore[arg-type]


def test_what_is_unknown_is_said_and_bounds_nothing() -> None:
    restored: list[str] = []
    tuning = Tuning.__new__(Tuning)
    tuning.own_noise, tuning.output = 0.01, object()  # type: ignore[assignment]

    def rounding(output: Any) -> float:
        raise RoundingUnknown("it ran out of memory")

    tuning.trial = types.SimpleNamespace(mark=lambda: "here", restore=restored.append, rounding=rounding)  # type: ignore[assignment]
    step = types.SimpleNamespace(tolerance=0.02, safety=Safety.NUMERIC)
    found = tuning._noise(step, Difference(compared_on="cuda:0", max_abs=0.5), "before")  # type: ignore[arg-type]
    assert found == (
        0.01,
        " How much of it half precision itself makes is unknown: in float32 it ran out of memory.",
    )
    assert restored == ["before", "here"]
