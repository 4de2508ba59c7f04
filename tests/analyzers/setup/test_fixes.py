"""The safety claims of setup fixes, on the tiny SDXL with real values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch

from diffprof.analyzers.setup.probe import probe_setup
from diffprof.devices import resolve_device
from diffprof.fix import Code, Safety, find_recipe
from diffprof.recording import Recording
from diffprof.targets import Options, resolve
from tests.analyzers.quantization.pipelines import add_lora
from tests.builders import make_recording


def plain_attention(pipe: Any) -> None:
    pipe.unet.set_default_attn_processor()
    pipe.vae.set_default_attn_processor()


def with_lora(pipe: Any) -> None:
    torch.manual_seed(0)
    add_lora(pipe)


def played(play: Callable[[Any], Any], **options: Any) -> Any:
    return resolve("tiny-sdxl").run(play, resolve_device("cpu"), Options(steps=2, **options))


def recorded(change: Callable[[Any], None] | None) -> Recording:
    def play(scene: Any) -> Recording:
        if change:
            change(scene.pipe)
        return make_recording(**probe_setup(scene.pipe))

    return played(play)


def image(change: Callable[[Any], None] | None, code: Code | None = None) -> np.ndarray:
    def play(scene: Any) -> np.ndarray:
        space: dict[str, Any] = {"pipe": scene.pipe}
        if change:
            change(scene.pipe)
        scene.kwargs = {**scene.kwargs, "output_type": "np"}
        with ExitStack() as stack, torch.no_grad():
            if code is not None:
                exec("\n".join(code.imports) + "\n" + code.definitions, space)
                exec(code.optimize, space)
                if code.around:
                    stack.enter_context(eval(code.around, space))
            scene.pipe = space["pipe"]
            return np.asarray(scene.call().images)

    return played(play)


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("no-progress-bar", lambda pipe: pipe.set_progress_bar_config(disable=False)),
        ("sdpa", plain_attention),
        ("fuse-qkv", None),
        ("fuse-lora", with_lora),
        ("channels-last", None),
        ("vae-unsliced", lambda pipe: pipe.vae.enable_slicing()),
        ("bfloat16", None),
        ("quantize-linears", None),
    ],
)
def test_the_image_is_as_the_fix_claims(key: str, change: Callable[[Any], None] | None) -> None:
    recipe = find_recipe(key)
    code = recipe.code(recorded(change), ())
    assert isinstance(code, Code)
    difference = float(np.abs(image(change) - image(change, code)).max())
    if recipe.fix.safety is Safety.EXACT:
        assert difference == 0.0
    elif recipe.fix.safety is Safety.NUMERIC:
        # In float32; the stated tolerance allows for half precision too.
        assert difference <= 1e-4 < (recipe.fix.tolerance or 0.0)
    else:
        assert 1e-4 < difference < 0.1


def test_tf32_holds_during_the_call_and_is_as_before_after_it() -> None:
    code = find_recipe("tf32").code(recorded(None), ())
    assert isinstance(code, Code)
    space: dict[str, Any] = {}
    exec("\n".join(code.imports) + "\n" + code.definitions, space)
    before = torch.get_float32_matmul_precision()
    with eval(code.around, space):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == before
