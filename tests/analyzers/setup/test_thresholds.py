"""Each threshold of the rules lies between two figures, one on each side of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from diffprof.analyzers.setup.rules import best_backend
from diffprof.judge.judging import make_report
from diffprof.model.recording import (
    Alternative,
    AttentionRow,
    AttentionTiming,
    Change,
    Component,
    Grade,
    KernelKind,
    Recording,
    Timeline,
)
from tests.analyzers.setup.examples import BAD, CPU, GB, SD15_UNET, denoiser, recorded, used, vae


def fires(code: str, recording: Recording) -> bool:
    return code in {finding.rule for finding in make_report(recording).findings}


def without_tiles(share: float) -> bool:
    """Decoding in one piece, as 4 tiles do, takes this share of 80 GB, 5 of which are weights."""
    decoding = int((80 * share - 5) / 4 * GB)
    return not fires("SET007", recorded(denoiser(), vae(tiling=True), memory=used(5 * GB + decoding)))


def saves(share: float) -> bool:
    """Fused projections make the call shorter by this share."""
    setup = BAD["SET005"].setup
    assert setup is not None
    ways = (Alternative(changes=(), ms=1.0), Alternative(changes=(Change.QKV,), ms=1.0 - share))
    return fires("SET005", replace(BAD["SET005"], setup=replace(setup, alternatives=ways)))


def decodes(share: float) -> bool:
    """SDXL's VAE takes this share of the call."""
    config = {"block_out_channels": [128, 256, 512, 512], "latent_channels": 4, "scaling_factor": 0.13025}
    model = Component(name="vae", role="vae", cls="AutoencoderKL", config=config)
    timeline = Timeline(
        grade=Grade.SIMULATED,
        kinds=(KernelKind(name="conv", op="conv", family="conv"),),
        modules=("unet", "vae.decoder"),
        kind=(0, 0),
        module=(0, 1),
        host_us=(1.0, 1.0),
        device_us=(1e6 * (1 - share), 1e6 * share),
        stream=(0, 0),
        sync=(-1, -1),
    )
    recording = recorded(denoiser(), vae())
    target = replace(recording.target, components=(*recording.target.components, model))
    return fires("SET017", replace(recording, target=target, timeline=timeline))


def faster(left: float) -> bool:
    """Attention by cuDNN takes this share of its time now."""
    row = AttentionRow(
        component="unet",
        heads=10,
        queries=4096,
        keys=4096,
        size=64,
        value_size=64,
        dtype="bfloat16",
        count=100,
        now_us=1000.0,
        timings=(AttentionTiming(backend="_native_cudnn", grade=Grade.SIMULATED, us=1000.0 * left),),
    )
    return best_backend(replace(recorded(), attention=(row,))) is None


SIDES: dict[str, tuple[Callable[[float], bool], float, float]] = {
    "many steps": (lambda n: fires("SET015", recorded(unet=SD15_UNET, steps=int(n))), 8, 9),
    "steps worth a cache": (
        lambda n: fires("SET016", recorded(denoiser(cacheable=True), steps=int(n))),
        8,
        9,
    ),
    "ample memory": (without_tiles, 0.75, 0.85),
    "worth a finding": (saves, 0.0009, 0.0011),
    "slow decoding": (decodes, 0.018, 0.022),
    "attention that is no faster": (faster, 0.95, 0.99),
    "convolutions that count": (
        lambda n: fires("SET010", recorded(denoiser(convs=int(n), convs_channels_last=0), device=CPU)),
        4,
        5,
    ),
    "linears that count": (
        lambda x: fires("SET014", recorded(denoiser(quantized=0, dtypes={"bfloat16": int(x * 2e8)}))),
        0.9,
        1.1,
    ),
}


@pytest.mark.parametrize("name", SIDES)
def test_a_threshold_lies_between(name: str) -> None:
    says, below, above = SIDES[name]
    assert (says(below), says(above)) == (False, True)
