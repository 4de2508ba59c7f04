"""Pipelines that are made of blocks: each is a part of the report by its name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from diffusers.modular_pipelines import (
    ComponentSpec,
    InputParam,
    LoopSequentialPipelineBlocks,
    ModularPipelineBlocks,
    OutputParam,
    SequentialPipelineBlocks,
)

from diffprof.judge.block_times import block_times
from diffprof.model.report import from_json, to_json
from diffprof.scanning.scan import scan
from diffprof.views import render

PARTS = [ComponentSpec("unet", UNet2DModel), ComponentSpec("scheduler", DDIMScheduler)]


class Prepare(ModularPipelineBlocks):
    """Reads a value once."""

    model_name = "tiny"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return PARTS

    @property
    def inputs(self) -> list[InputParam]:
        return [InputParam("num_inference_steps", default=3)]

    @property
    def intermediate_outputs(self) -> list[OutputParam]:
        return [OutputParam("sample")]

    def __call__(self, components: Any, state: Any) -> Any:
        block = self.get_block_state(state)
        components.scheduler.set_timesteps(block.num_inference_steps, device=components.unet.device)
        block.sample = torch.ones(1, 4, 8, 8, device=components.unet.device)
        block.sample.sum().item()
        self.set_block_state(state, block)
        return components, state


class Predict(ModularPipelineBlocks):
    """Runs the denoiser."""

    model_name = "tiny"

    @property
    def expected_components(self) -> list[ComponentSpec]:
        return PARTS

    def __call__(self, components: Any, block: Any, i: int, t: Any) -> Any:
        block.noise = components.unet(block.sample, t).sample
        return components, block


class Step(Predict):
    """A step of the scheduler, and another read."""

    def __call__(self, components: Any, block: Any, i: int, t: Any) -> Any:
        block.sample = components.scheduler.step(block.noise, int(t), block.sample).prev_sample
        block.sample.sum().item()
        return components, block


class Steps(LoopSequentialPipelineBlocks):
    """The loop."""

    model_name = "tiny"
    block_classes = (Predict, Step)
    block_names = ("predict", "step")

    @property
    def loop_inputs(self) -> list[InputParam]:
        return [InputParam("sample")]

    @property
    def loop_expected_components(self) -> list[ComponentSpec]:
        return PARTS

    def __call__(self, components: Any, state: Any) -> Any:
        block = self.get_block_state(state)
        for i, t in enumerate(components.scheduler.timesteps):
            components, block = self.loop_step(components, block, i=i, t=t)
        self.set_block_state(state, block)
        return components, state


class Whole(SequentialPipelineBlocks):
    """All of it."""

    model_name = "tiny"
    block_classes = (Prepare, Steps)
    block_names = ("prepare", "denoise")


def made() -> Any:
    unet = UNet2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        add_attention=False,
    )
    pipe = Whole().init_pipeline()
    pipe.update_components(unet=unet, scheduler=DDIMScheduler(clip_sample=False))
    return pipe


def test_each_block_has_its_time_and_its_waits() -> None:
    pipe = made()
    report = scan(pipe, device="sim:h100", analyzers=("syncs", "kernels"), num_inference_steps=3)
    timeline = report.recording.timeline
    assert timeline is not None
    found = {each.name: each for each in block_times(timeline)}
    assert list(found) == ["prepare", "denoise.predict", "denoise.step"]
    assert found["prepare"].waits == 2, "the upload of the timesteps, and the read"
    assert found["denoise.predict"].waits == 0
    assert found["denoise.step"].waits == 3 * (found["denoise.step"].waits // 3) >= 3
    assert sum(each.waits for each in found.values()) == sum(
        row.count for row in report.recording.syncs or ()
    )
    assert found["denoise.predict"].device_ms > found["denoise.step"].device_ms > 0.0
    assert "denoise.predict" in render(report, "text", columns=100, verbose=True)
    assert all("__call__" not in vars(cls) or "wrapped" not in repr(cls.__call__) for cls in (Prepare, Step))


@pytest.mark.slow
def test_on_a_cpu_each_block_has_its_measured_time() -> None:
    report = scan(made(), device="cpu", analyzers=("syncs", "kernels"), num_inference_steps=3)
    recording = report.recording
    names = [each.name for each in recording.blocks or ()]
    # The loop has Python of its own.
    assert names == ["prepare", "denoise", "denoise.predict", "denoise.step"]
    assert recording.timing is not None
    whole = sum(each.elapsed_ms for each in recording.blocks or ())
    assert 0.0 < whole < 50 * recording.timing.median * 1e3, "under the profiler it takes longer"
    assert all(each.elapsed_ms > 0.0 and each.device_ms is None for each in recording.blocks or ())
    assert "denoise.predict" in render(report, "text", columns=100, verbose=True)
    assert from_json(to_json(report)).recording.blocks == recording.blocks


def test_other_pipelines_have_no_blocks() -> None:
    report = scan("corpus:sd15", device="sim:h100", analyzers=("kernels",))
    assert report.recording.timeline is not None
    assert block_times(report.recording.timeline) == ()
    assert "Blocks of the pipeline" not in render(report, "text", columns=100, verbose=True)
