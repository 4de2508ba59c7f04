"""What findings and plans promise is what the call is shorter with the fix, in the same simulator."""

from __future__ import annotations

import pytest

from diffprof.corpus import CASES
from diffprof.targets import Options, from_object, resolve
from tests.tuning.promises import promises

CORPUS = sorted(CASES)[:: max(1, len(CASES) // 20)][:20]


@pytest.mark.nightly
def test_each_promise_of_a_tiny_pipeline_is_kept() -> None:
    made = promises(resolve("tiny-sdxl"), Options(steps=3, scheduler="DDIMScheduler"), "a100-80gb")
    assert {"compile", "host-timesteps"} <= {fix for each in made for fix in each.fixes}
    assert [each for each in made if not each.kept] == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", CORPUS)
def test_each_promise_of_a_pipeline_of_the_corpus_is_kept(name: str) -> None:
    case = CASES[name].build()
    made = promises(from_object(case.pipe, kwargs=case.kwargs), Options(), "a100-80gb")
    assert [each for each in made if not each.kept] == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_a_pipeline_that_makes_an_array_in_its_own_type_runs_in_half_precision(name: str) -> None:
    """NumPy has no bfloat16: the pipeline would raise."""
    case = CASES[name].build()
    made = promises(from_object(case.pipe, kwargs=case.kwargs), Options(), "a100-80gb", unknown=True)
    (half,) = [each for each in made if {"bfloat16", "float16"} & {*each.fixes}]
    assert half.fixes == ("float16",)


SETTINGS = ({"dtype": "bf16"}, {}, {"baseline": True}, {"dtype": "fp16", "steps": 12})


@pytest.mark.nightly
@pytest.mark.parametrize("given", SETTINGS, ids=str)
@pytest.mark.parametrize("target", ["sdxl", "sd15"])
def test_each_promise_of_a_full_size_pipeline_is_kept(target: str, given: dict) -> None:
    options = Options(**{"steps": 3, "scheduler": "DDIMScheduler", **given})
    made = promises(resolve(target), options, "a100-80gb", together=True)
    assert {"compile", "host-timesteps"} <= {fix for each in made for fix in each.fixes}
    assert [each for each in made if not each.kept] == []
