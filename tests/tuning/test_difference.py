"""What of a call's result is compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from diffprof.targets.pipeline_call import PipelineCall
from diffprof.tuning.difference import Incomparable, output_of


@dataclass
class Made:
    name: str
    images: Any


class Pipe:
    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self) -> Any:
        return self.result


def made(result: Any) -> Any:
    call = PipelineCall(pipe=Pipe(result), args=(), kwargs={}, target=None, weights="real")  # type: ignore[arg-type]
    output = output_of(call)
    return output.image if output.image is not None else output.latents


@pytest.mark.parametrize(
    "wrapped",
    [lambda x: x, lambda x: (x, "flag"), lambda x: {"images": x}, lambda x: Made("cat", x), lambda x: [x]],
)
def test_the_first_numbers_of_a_result(wrapped: Any) -> None:
    image = np.full((4, 4, 3), 0.25)
    assert np.array_equal(np.asarray(made(wrapped(image))), image)
    assert np.array_equal(np.asarray(made(wrapped(torch.ones(1, 2)))), np.ones((1, 2)))


@pytest.mark.parametrize("result", [None, "text", object(), (), Made("cat", None)])
def test_a_result_without_numbers_is_named(result: Any) -> None:
    with pytest.raises(Incomparable, match=f"the call gave a {type(result).__name__}, which holds nothing"):
        made(result)
