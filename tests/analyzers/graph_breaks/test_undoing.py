"""Each fix that can be run, on the tiny pipeline: the same picture with it, and nothing left once undone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from diffprof.analyzers.graph_breaks.fixes import RECIPES
from diffprof.judge.judging import make_report
from diffprof.judge.recipes import find_recipe
from diffprof.model.fix import Code, Safety
from diffprof.model.recording import Recording
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.tuning.subject import Subject
from tests.analyzers.graph_breaks import tiny
from tests.analyzers.graph_breaks.examples import BAD, make_recompile, recompiles

_SHAPE = "tensor 'sample' size mismatch at index 2. expected 8, actual 16"

RECORDINGS: dict[str, Recording] = {
    "quiet-in-graph": BAD["GRB004"],
    "capture-scalars": BAD["GRB002"],
    "tuple-outputs": BAD["GRB003"],
    "numbers-as-tensors": recompiles(make_recompile("timestep == 1.0", "scalar")),
    "dynamic-shapes": recompiles(
        make_recompile(_SHAPE, "shape", tried=("dynamic=True",), stopped_by=("dynamic=True",))
    ),
    "mark-dynamic": recompiles(
        make_recompile(
            _SHAPE,
            "shape",
            tried=("mark_dynamic",),
            stopped_by=("mark_dynamic",),
            marked={"sample": (2, 3), "added_cond_kwargs['text_embeds']": (0,)},
        )
    ),
    "more-versions": BAD["GRB014"],
}
"""What each fix is for."""

RUN = [recipe.fix for recipe in RECIPES if recipe.fix.safety is not Safety.ADVICE]


def state(pipe: Any) -> list[Any]:
    """What a fix may touch: classes and attributes of all modules, Dynamo's settings."""
    import torch._dynamo
    import torch.fx.experimental._config as shapes

    modules = [module for part in (pipe.unet, pipe.vae) for module in part.modules()]
    return [
        [(type(module), sorted(vars(module))) for module in modules],
        torch._dynamo.config.get_config_copy(),
        shapes.get_config_copy(),
    ]


def test_every_fix_that_is_run_is_tried_here() -> None:
    assert {fix.key for fix in RUN} == set(RECORDINGS)


@pytest.mark.parametrize("key", RECORDINGS)
def test_the_picture_is_the_same_with_the_fix_and_nothing_is_left_of_it(key: str) -> None:
    recording = RECORDINGS[key]
    findings = [finding for finding in make_report(recording).findings if key in finding.fixes]
    code = find_recipe(key).code(recording, findings)
    assert isinstance(code, Code), code
    call = tiny.sdxl()
    call.kwargs["latents"] = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    subject = Subject(PipelineCall(call.pipe, (), call.kwargs, None, "real"))  # type: ignore[arg-type]
    first = subject.call.run().images
    before, mark = state(subject.pipe), subject.mark()
    subject.apply(key, code)
    if not code.around:
        assert state(subject.pipe) != before, "it is applied"
    fixed = subject.call.run().images
    assert state(subject.pipe)[1:] == before[1:], "settings hold during the call alone"
    subject.restore(mark)
    assert state(subject.pipe) == before
    assert (fixed == first).all()
    assert (subject.call.run().images == first).all()
