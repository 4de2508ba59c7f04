"""Which attention modules can be fused, of pipelines that treat them otherwise than their models say."""

from __future__ import annotations

import pytest
from diffusers.models.attention_processor import AttnProcessor2_0

from diffprof.analyzers.setup.attention_modules import fusable, left_out_by_fusing, replaces_processors
from diffprof.analyzers.setup.precision import fuse_qkv
from diffprof.corpus import CASES
from diffprof.model.fix import Code
from diffprof.model.recording import Setup, SetupPart
from tests.builders import make_recording


@pytest.mark.parametrize(
    ("name", "replaces", "models"),
    [
        ("sd3", False, {"transformer", "vae"}),
        ("sd3-pag", True, set()),  # it sets processors of its own for the call
        ("leditspp-sdxl", True, set()),  # so does one that another holds
        ("prx", False, {"vae"}),  # its attention holds one product for all three already
        ("sdxl-controlnet-inpaint", False, {"unet", "vae"}),  # the ControlNet's switch does nothing
    ],
)
def test_what_fusing_would_change(name: str, replaces: bool, models: set[str]) -> None:
    pipe = CASES[name].build().pipe
    assert replaces_processors(pipe) is replaces
    assert {each for each, paths in fusable(pipe).items() if paths} == models
    assert left_out_by_fusing(pipe) is None


class Clamped(AttnProcessor2_0):
    """A user's own: fusing would put diffusers' in its place."""


def test_a_processor_of_the_user_s_is_not_replaced() -> None:
    pipe = CASES["sdxl-controlnet-inpaint"].build().pipe
    pipe.unet.set_attn_processor(Clamped())
    assert {name for name, paths in fusable(pipe).items() if paths} == {"vae"}


def test_an_adapter_beside_a_projection_is_not_left_out() -> None:
    """Fused, it was no part of the product: 22.9 ms less were an image without the adapter."""
    pipe = CASES["sdxl-lora-two-adapters"].build().pipe
    assert (left_out_by_fusing(pipe) or "").startswith("unet computes an adapter")
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert left_out_by_fusing(pipe) is None


@pytest.mark.parametrize(("vae", "code"), [(1, "pipe"), (None, "pipe.unet")])
def test_the_pipelines_switch_is_for_a_vae_that_takes_it(vae: int | None, code: str) -> None:
    """It raises for others, as a tiny VAE that an earlier fix put there."""
    parts = (
        SetupPart(name="unet", role="denoiser", fusable=2),
        SetupPart(name="vae", role="vae", fusable=vae),
    )
    written = fuse_qkv(make_recording(setup=Setup(parts=parts, fuses_qkv=True)), ())
    assert isinstance(written, Code)
    assert written.optimize == f"{code}.fuse_qkv_projections()"
