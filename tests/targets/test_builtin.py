from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from diffprof.devices import resolve_device
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options, builtin_targets, resolve
from diffprof.targets.builtin import ARCHITECTURES, BuiltinInfo, builtin_named, copied, resembles, stands_for
from diffprof.targets.call_values import call_values
from diffprof.targets.components import components_of
from diffprof.targets.construct import assemble, read_index
from diffprof.views.words import parameters
from tests.benchmarks import targets_table

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


def call_of(name: str, device: Any, options: Options | None = None) -> Any:
    return resolve(name).run(lambda call: call, device, options or Options())


QUICK = {"sd15", "sdxl", "ssd-1b", "tiny-sdxl", "flux", "wan2.1-t2v-14b"}


def each_architecture() -> list[Any]:
    """The quick ones always; the rest with the slow tests."""
    return [
        pytest.param(info, id=info.name, marks=() if info.name in QUICK else (pytest.mark.nightly,))
        for info in builtin_targets()
    ]


@pytest.mark.parametrize("info", each_architecture())
def test_counts_are_those_of_the_architecture_and_as_published(info: BuiltinInfo) -> None:
    with info.checkpoint() as folder:
        pipe = assemble([folder], empty=True)
    counts = {row.name: row.parameters for row in components_of(pipe) if row.parameters is not None}
    assert counts == info.parameters == {**counts, **PUBLISHED.get(info.name, {})}
    for name, (figure, _) in {**info.stated, **info.checked_by}.items():
        if figure is not None:
            model = getattr(pipe, name)
            stored = sum(t.numel() for t in model.state_dict().values())
            assert stored == pytest.approx(billions(figure), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("info", each_architecture())
def test_what_comes_out_has_the_size_that_is_asked_for(info: BuiltinInfo) -> None:
    asked = info.call.get("width"), info.call.get("height")
    if None in asked:
        pytest.skip("the model card's call names no size")
    device = resolve_device("sim:h100")
    with device.active(), torch.no_grad():
        result = resolve(info.name).run(lambda call: call.run(), device, Options())
    pictures = result.images if hasattr(result, "images") else result.frames[0]
    first = pictures[0]
    assert (first.size if hasattr(first, "getbands") else first.shape[1::-1]) == asked


def billions(figure: str) -> float:
    """ "12B" -> 12e9, "600M" -> 6e8."""
    return float(figure[:-1]) * {"B": 1e9, "M": 1e6}[figure[-1]]


@pytest.mark.parametrize("info", builtin_targets(), ids=lambda info: info.name)
def test_what_is_said_of_an_architecture_is_complete(info: BuiltinInfo) -> None:
    assert info.description
    assert info.source
    assert info.parameters
    strength = info.call.get("strength", 1)
    assert info.call["num_inference_steps"] == min(math.ceil(3 / strength), info.steps or 3)
    assert {*info.checked_by, *info.stated} <= info.parameters.keys()
    if (ARCHITECTURES / f"{info.name}.json").is_file():
        assert None not in (info.licence, info.dtype, info.steps)
        for figure, where in info.checked_by.values():
            assert where
            assert figure is None or billions(figure) > 1e6


def test_architectures_are_written_as_checkpoint_folders() -> None:
    import diffusers

    for info in builtin_targets():
        with info.checkpoint() as folder:
            index = read_index(folder)
            listed = {name for name, entry in index.items() if isinstance(entry, list) and entry[0]}
            assert listed == {held.name for held in folder.iterdir() if held.is_dir()}
        assert hasattr(diffusers, index["_class_name"])


def test_the_page_has_a_row_for_each_and_its_counts_are_those_of_the_files() -> None:
    rows, checks = (targets_table.rows_of(targets_table.FILE.read_text(), number) for number in (0, 1))
    assert list(rows) == list(checks) == [info.name for info in builtin_targets()]
    for info in builtin_targets():
        assert checks[info.name]["parameters"] == parameters(sum(info.parameters.values()))
        assert checks[info.name]["checked by"] == targets_table.checked(info)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sdxl-turbo", "flux-schnell"])
def test_the_page_s_figures_are_what_a_scan_gives(name: str) -> None:
    page = targets_table.rows_of(targets_table.FILE.read_text())[name]
    found = targets_table.row(scan_target(name, device=targets_table.DEVICE))
    assert {head: page[head] for head in found} == found


def test_names_and_aliases_are_unique() -> None:
    names = [name for info in builtin_targets() for name in (info.name, *info.aliases)]
    assert len(names) == len(set(names))


def test_an_alias_and_a_checkpoint_lead_to_the_architecture() -> None:
    assert resolve("wan").name == "wan2.1-t2v-14b"
    assert stands_for("black-forest-labs/flux.1-dev") == builtin_named("flux")
    assert stands_for("somebody/else") is None


@pytest.mark.parametrize(
    ("checkpoint", "name"),
    [
        ("zai-org/CogVideoX-5b", "cogvideox-5b"),
        ("runwayml/stable-diffusion-v1-5", "sd15"),
        ("Wan-AI/Wan2.2-T2V-A14B", "wan2.2-t2v-a14b"),
        ("Kwai-Kolors/Kolors", "kolors"),
        ("stabilityai/stable-diffusion-3-medium", "sd3-medium"),
        ("tencent/HunyuanVideo", "hunyuan-video"),
        ("tencent/HunyuanVideo-1.5", "~hunyuan-video-1.5"),
        ("Qwen/Qwen-Image-Edit-2509", "~qwen-image-edit"),
        ("Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", "~wan2.1-i2v-14b"),
        ("stabilityai/stable-diffusion-2-1-base", "~sd21"),
        ("somebody/else", None),
    ],
)
def test_a_checkpoint_of_another_owner_or_version_leads_to_what_is_built_in(
    checkpoint: str, name: str | None
) -> None:
    same, like = copied(checkpoint), resembles(checkpoint)
    assert stands_for(checkpoint) is None
    assert (same.name if same else like and f"~{like.name}") == name


def test_what_differs_is_stored_and_the_rest_taken_over(shapes: Any) -> None:
    pipe = call_of("flux-schnell", shapes, Options(dtype="bf16")).pipe
    assert type(pipe).__name__ == "FluxPipeline"
    assert pipe.transformer.config.guidance_embeds is False
    assert (pipe.scheduler.config.shift, pipe.scheduler.config.use_dynamic_shifting) == (1.0, False)
    assert (pipe.vae.config.scaling_factor, pipe.vae.config.shift_factor) == (0.3611, 0.1159)
    assert pipe.tokenizer_2.model_max_length == 512


def test_the_model_cards_type_is_used_unless_another_is_asked_for(shapes: Any) -> None:
    def types(options: Options) -> dict[str, str | None]:
        rows = components_of(call_of("wan2.1-t2v-1.3b", shapes, options).pipe)
        return {row.name: row.dtype for row in rows if row.parameters}

    own = {"vae": "float32", "text_encoder": "bfloat16", "transformer": "bfloat16"}
    assert types(Options()) == own
    assert set(types(Options(dtype="fp16")).values()) == {"float16"}


@pytest.mark.slow
def test_a_scan_of_fewer_steps_than_the_model_card_says_so(shapes: Any) -> None:
    call = call_of("flux", shapes)
    assert call.describe_call()["num_inference_steps"] == 3
    assert call.card_steps == 50
    assert call_of("flux", shapes, Options(steps=3)).card_steps is None
    # 0.3 of 50: the share of the steps that are made of an image.
    assert call_of("sdxl-img2img", shapes).card_steps == 15


def test_described_arguments_become_values(shapes: Any) -> None:
    pipe = call_of("tiny-sdxl", shapes).pipe
    made = call_values(
        {
            "image": {"image": [64, 32]},
            "images": [{"image": [8, 8]}],
            "mask_image": {"mask": [64, 32]},
            "prompt_embeds": {"tensor": [1, 7, 64]},
            "mask": {"tensor": [1, 7], "dtype": "int64"},
            "prompt": "a cat",
        },
        pipe,
        torch.device("cpu"),
    )
    assert (made["image"].size, made["image"].mode, made["images"][0].size) == ((64, 32), "RGB", (8, 8))
    assert (made["mask_image"].size, made["mask_image"].getextrema()) == ((64, 32), (255, 255))
    assert (made["prompt_embeds"].shape, made["prompt_embeds"].dtype) == ((1, 7, 64), pipe.unet.dtype)
    assert (made["mask"].dtype, made["mask"].sum()) == (torch.int64, 7)
    assert made["prompt"] == "a cat"


def test_an_architecture_without_values_takes_no_memory_and_has_its_tables(shapes: Any) -> None:
    call = call_of("sdxl", shapes)
    assert call.weights == "none"
    assert {
        p.device.type
        for part in ("unet", "vae", "text_encoder")
        for p in getattr(call.pipe, part).parameters()
    } == {"meta"}
    positions = (
        call.pipe.text_encoder.text_model.embeddings.position_ids
        if hasattr(call.pipe.text_encoder, "text_model")
        else call.pipe.text_encoder.embeddings.position_ids
    )
    assert positions.tolist() == [list(range(77))]
    assert shapes.places == [call.pipe]


def test_sdxl_is_as_published(shapes: Any) -> None:
    pipe = call_of("sdxl", shapes).pipe
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
    unet = call_of("ssd-1b", shapes).pipe.unet

    def depths(block: Any) -> list[int]:
        return [len(a.transformer_blocks) for a in getattr(block, "attentions", None) or () if a is not None]

    assert [depths(block) for block in unet.down_blocks] == [[], [2, 2], [4, 4]]
    assert depths(unet.mid_block) == []
    assert [depths(block) for block in unet.up_blocks] == [[4, 4, 10], [2, 1, 1], []]


def test_dtype_is_that_of_loading_with_it(shapes: Any) -> None:
    rows = components_of(call_of("sdxl", shapes, Options(dtype="fp16")).pipe)
    assert {row.dtype for row in rows if row.parameters} == {"float16"}
    rows = components_of(call_of("sdxl", shapes).pipe)
    assert {row.dtype for row in rows if row.parameters} == {"float32"}


def test_roles_and_the_stand_in_are_told(shapes: Any) -> None:
    rows = {row.name: row for row in components_of(call_of("sdxl", shapes).pipe)}
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


@pytest.mark.slow
def test_the_tiny_one_runs_for_real_and_the_same_every_time(cpu: Any, unchanged: None, caplog: Any) -> None:
    call = call_of("tiny-sdxl", cpu, Options(steps=2))
    assert call.weights == "random"
    first, second = (np.asarray(call.run().images[0]) for _ in range(2))
    assert first.shape == (64, 64, 3)
    assert first.std() > 0
    assert (first == second).all()
    again = call_of("tiny-sdxl", cpu, Options(steps=2))
    assert all(
        torch.equal(a, b)
        for a, b in zip(call.pipe.unet.parameters(), again.pipe.unet.parameters(), strict=True)
    )
    assert not [r for r in caplog.records if "truncated" in r.getMessage()]


def test_call_arguments_of_a_scan_are_stated(shapes: Any) -> None:
    call = call_of(
        "sdxl", shapes, Options(batch=2, height=512, guidance_scale=3.5, call={"output_type": "latent"})
    )
    described = call.describe_call()
    assert described.pop("prompt")
    assert described == {
        "height": 512,
        "num_inference_steps": 3,
        "guidance_scale": 3.5,
        "num_images_per_prompt": 2,
        "output_type": "latent",
    }


def test_a_pipeline_may_make_a_model_of_those_it_is_given(shapes: Any) -> None:
    pipe = call_of("animatediff", shapes).pipe
    assert type(pipe.unet).__name__ == "UNetMotionModel"
    assert {parameter.device.type for parameter in pipe.unet.parameters()} == {"meta"}
    assert pipe.motion_adapter.config.motion_max_seq_length == 32
