from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from diffprof.targets import Options, builtin_targets, resolve
from diffprof.targets.components import components_of

PUBLISHED = {
    # Parameters of the published checkpoints' tensors.
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
    "sd15": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
}


def scene_of(name: str, device: Any, options: Options | None = None) -> Any:
    return resolve(name).run(lambda scene: scene, device, options or Options())


@pytest.mark.parametrize("info", builtin_targets(), ids=lambda info: info.name)
def test_stored_counts_are_those_of_the_architecture(info: Any, shapes: Any) -> None:
    counts = {
        row.name: row.parameters
        for row in components_of(scene_of(info.name, shapes).pipe)
        if row.parameters is not None
    }
    assert counts == info.parameters == {**counts, **PUBLISHED.get(info.name, {})}


def test_an_architecture_without_values_takes_no_memory_and_has_its_tables(shapes: Any) -> None:
    scene = scene_of("sdxl", shapes)
    assert scene.weights == "none"
    assert {
        p.device.type
        for part in ("unet", "vae", "text_encoder")
        for p in getattr(scene.pipe, part).parameters()
    } == {"meta"}
    positions = (
        scene.pipe.text_encoder.text_model.embeddings.position_ids
        if hasattr(scene.pipe.text_encoder, "text_model")
        else scene.pipe.text_encoder.embeddings.position_ids
    )
    assert positions.tolist() == [list(range(77))]
    assert shapes.places == [scene.pipe]


def test_sdxl_is_as_published(shapes: Any) -> None:
    pipe = scene_of("sdxl", shapes).pipe
    assert pipe.vae.config.force_upcast is True
    assert pipe.vae.config.scaling_factor == 0.13025
    assert pipe.config.force_zeros_for_empty_prompt is True
    assert pipe.default_sample_size * pipe.vae_scale_factor == 1024
    scheduler = pipe.scheduler.config
    assert type(pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    assert (scheduler.beta_start, scheduler.beta_end, scheduler.beta_schedule) == (
        0.00085,
        0.012,
        "scaled_linear",
    )
    assert (scheduler.timestep_spacing, scheduler.steps_offset) == ("leading", 1)
    assert (scheduler.prediction_type, scheduler.use_karras_sigmas) == ("epsilon", False)
    assert not pipe.unet.training


def test_ssd_1b_has_its_depths_per_layer(shapes: Any) -> None:
    unet = scene_of("ssd-1b", shapes).pipe.unet

    def depths(block: Any) -> list[int]:
        return [len(a.transformer_blocks) for a in getattr(block, "attentions", None) or () if a is not None]

    assert [depths(block) for block in unet.down_blocks] == [[], [2, 2], [4, 4]]
    assert depths(unet.mid_block) == []
    assert [depths(block) for block in unet.up_blocks] == [[4, 4, 10], [2, 1, 1], []]


def test_dtype_is_that_of_loading_with_it(shapes: Any) -> None:
    rows = components_of(scene_of("sdxl", shapes, Options(dtype="fp16")).pipe)
    assert {row.dtype for row in rows if row.parameters} == {"float16"}
    rows = components_of(scene_of("sdxl", shapes).pipe)
    assert {row.dtype for row in rows if row.parameters} == {"float32"}


def test_roles_and_the_stand_in_are_told(shapes: Any) -> None:
    rows = {row.name: row for row in components_of(scene_of("sdxl", shapes).pipe)}
    assert {name: row.role for name, row in rows.items()} == {
        "vae": "vae",
        "text_encoder": "text_encoder",
        "text_encoder_2": "text_encoder",
        "tokenizer": "tokenizer",
        "tokenizer_2": "tokenizer",
        "unet": "denoiser",
        "scheduler": "scheduler",
    }
    assert rows["tokenizer"].cls == "StandInTokenizer"
    assert "stand_in" in rows["tokenizer"].config


def test_the_tiny_one_runs_for_real_and_the_same_every_time(cpu: Any, unchanged: None, caplog: Any) -> None:
    scene = scene_of("tiny-sdxl", cpu, Options(steps=2))
    assert scene.weights == "random"
    first, second = (np.asarray(scene.call().images[0]) for _ in range(2))
    assert first.shape == (64, 64, 3)
    assert first.std() > 0
    assert (first == second).all()
    again = scene_of("tiny-sdxl", cpu, Options(steps=2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(scene.pipe.unet.parameters(), again.pipe.unet.parameters(), strict=True)
    )
    assert not [r for r in caplog.records if "truncated" in r.getMessage()]


def test_call_arguments_of_a_scan_are_stated(shapes: Any) -> None:
    scene = scene_of(
        "sdxl", shapes, Options(batch=2, height=512, guidance_scale=3.5, call={"output_type": "latent"})
    )
    described = scene.describe_call()
    assert described.pop("prompt")
    assert described == {
        "height": 512,
        "num_inference_steps": 3,
        "guidance_scale": 3.5,
        "num_images_per_prompt": 2,
        "output_type": "latent",
    }
