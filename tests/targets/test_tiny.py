"""The small forms of the built-in architectures: named, built by the rule of twins, called with values."""

from __future__ import annotations

import inspect
import json
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from diffprof.corpus import CASES
from diffprof.model.errors import TargetError, UsageError
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options, builtin_targets, resolve
from diffprof.targets.checkpoint import TinyTarget
from diffprof.targets.construct import assemble, read_index, weightless
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.twin.shrinking import Scale, _model_config, _text_config, shrunk
from diffprof.targets.twin.sizes import Sizes

SMALL = [info for info in builtin_targets() if info.tiny]


def test_every_architecture_has_a_small_form_and_what_is_small_has_none() -> None:
    assert {resolve(info.tiny).name for info in SMALL if info.tiny} == {f"tiny-{each.name}" for each in SMALL}
    assert resolve("tiny-wan").name == "tiny-wan2.1-t2v-14b"
    assert not isinstance(resolve("tiny-sdxl"), TinyTarget)
    with pytest.raises(UsageError, match="Did you mean tiny-flux"):
        resolve("tiny-flx")
    with pytest.raises(UsageError, match="There is no target 'tiny-tiny-sdxl'"):
        resolve("tiny-tiny-sdxl")


@pytest.mark.slow
def test_a_small_form_has_all_blocks_of_the_denoiser_and_runs_with_values(cpu: Any) -> None:
    call = resolve("tiny-sd15").run(lambda call: call, cpu, Options(steps=1))
    unet = call.pipe.unet
    assert tuple(unet.config.block_out_channels) == (20, 40, 80, 80)
    assert (unet.config.layers_per_block, unet.config.cross_attention_dim) == (2, 48)
    assert call.describe_call()["num_inference_steps"] == 1
    assert "widths divided by 16" in call.notes[0]
    picture = call.run().images[0]
    assert picture.size == (64, 64)
    assert len(set(picture.tobytes())) > 1


def test_a_small_form_is_as_before_its_first_call(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def tiny_case(self: TinyTarget, options: Options) -> PipelineCall:
        case = CASES["z-image"].build()
        return PipelineCall(case.pipe, (), case.kwargs, self, "none")

    monkeypatch.setattr(TinyTarget, "_full_size", tiny_case)
    call = resolve("tiny-z-image").run(lambda call: call, cpu, Options())
    assert call.pipe.transformer.rope_embedder.freqs_cis is None
    call.run()
    assert call.pipe.transformer.rope_embedder.freqs_cis is not None


def test_what_can_not_be_shrunk_says_why(cpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_size(self: TinyTarget, options: Options) -> PipelineCall:
        case = CASES["flux"].build()
        case.pipe.transformer = torch.nn.Linear(3, 3)
        return PipelineCall(case.pipe, (), case.kwargs, self, "none")

    monkeypatch.setattr(TinyTarget, "_full_size", full_size)
    with pytest.raises(TargetError) as error:
        resolve("tiny-flux").run(lambda call: call, cpu, Options())
    assert "no 'tiny-flux'" in error.value.what
    assert "Linear has no configuration" in error.value.what
    assert "diffprof scan flux" in (error.value.hint or "")


def test_what_depends_on_a_text_encoders_layers_and_heads_follows_them() -> None:
    config = {
        "hidden_size": 3584,
        "num_attention_heads": 28,
        "intermediate_size": 3420,
        "num_hidden_layers": 28,
        "layer_types": ["full_attention"] * 28,
        "rope_parameters": {"mrope_section": [16, 24, 24]},
    }
    small = _text_config(config, Scale(16, False, Sizes(64, 64, 1, 64, 64, 1)))
    assert (small["hidden_size"], small["intermediate_size"]) == (224, 213)
    assert len(small["layer_types"]) == small["num_hidden_layers"] == 2
    # Pairs of features: half of a head's eight.
    assert sum(small["rope_parameters"]["mrope_section"]) == 4
    vision = {"hidden_size": 1280, "num_heads": 16, "depth": 32}
    seen = _text_config(vision, Scale(16, False, Sizes(64, 64, 1, 64, 64, 1)))
    assert (seen["hidden_size"], seen["num_heads"], seen["depth"]) == (80, 10, 32)
    whole = _text_config(config, Scale(16, False, Sizes(64, 64, 1, 64, 64, 1), None))
    assert len(whole["layer_types"]) == whole["num_hidden_layers"] == 28


def test_what_is_as_wide_as_a_denoiser_is_divided_with_it() -> None:
    scale = Scale(2, False, Sizes(64, 64, 1, 64, 64, 1))
    found = []
    for info in SMALL:
        with info.checkpoint() as folder:
            entries = [
                (name, entry[1])
                for name, entry in read_index(folder).items()
                if isinstance(entry, list) and entry[0] == "diffusers"
            ]
            configs = [_whole(cls, folder / name / "config.json") for name, cls in entries]
        for config in configs:
            heads, size = config.get("num_attention_heads"), config.get("attention_head_dim")
            if isinstance(heads, int) and isinstance(size, int):
                wide = [key for key, value in config.items() if value == heads * size]
                small = _model_config(config, scale)
                assert {small[key] for key in wide} <= {heads * size // 2}, (info.name, wide)
                found += wide
    assert "added_kv_proj_dim" in found


def test_each_stream_of_a_denoiser_is_divided() -> None:
    config = {"num_attention_heads": 32, "attention_head_dim": 128, "audio_cross_attention_dim": 2048}
    config |= {"audio_num_attention_heads": 32, "audio_attention_head_dim": 64}
    sizes = Sizes(64, 64, 1, 64, 64, 1)
    small = _model_config(config, Scale(16, False, sizes))
    assert (small["attention_head_dim"], small["audio_attention_head_dim"]) == (8, 4)
    assert small["audio_cross_attention_dim"] == 128
    small = _model_config(config, Scale(16, True, sizes))
    assert (small["num_attention_heads"], small["audio_num_attention_heads"]) == (2, 2)


def test_heads_that_the_width_can_not_be_shared_out_to_are_fewer() -> None:
    vision = {"hidden_size": 1152, "num_attention_heads": 16}
    small = _text_config(vision, Scale(16, False, Sizes(64, 64, 1, 64, 64, 1)))
    assert (small["hidden_size"], small["num_attention_heads"]) == (72, 9)


LARGE = 5_000_000
"""Elements of a weight. Models name widths of smaller ones in their code, not in a configuration."""


@pytest.mark.nightly
@pytest.mark.parametrize("info", SMALL, ids=lambda info: info.name)
def test_every_large_weight_of_a_small_form_is_divided(info: Any) -> None:
    with info.checkpoint() as folder:
        pipe = assemble([folder], empty=True)
    scale = Scale(2, False, Sizes(64, 64, 1, 64, 64, 1), text_layers=None)
    for name, part in pipe.components.items():
        if isinstance(part, torch.nn.Module):
            with weightless():
                small = dict(shrunk(part, scale).named_parameters())
            # What an adapter adds is copied afterwards.
            for key, weight in part.named_parameters():
                if weight.numel() > LARGE and key in small:
                    assert 2 * small[key].numel() <= weight.numel(), (name, key)


def _whole(cls: str, file: Path) -> dict[str, Any]:
    """A configuration with the class' defaults."""
    arguments = inspect.signature(getattr(diffusers, cls).__init__).parameters.values()
    defaults = {each.name: each.default for each in arguments if each.default is not each.empty}
    return {**defaults, **(json.loads(file.read_text()) if file.is_file() else {})}


Wait = tuple[str, int, str, bool]
"""File, line, kind, and whether it is in the loop."""


def waits(name: str, device: str) -> Counter[Wait]:
    """How often a call waits."""
    recording = scan_target(name, device=device, analyzers=("syncs",)).recording
    found: Counter[Wait] = Counter()
    for row in recording.syncs or ():
        found[row.site.file, row.site.line, row.kind, row.in_loop] += row.count
    return found


@pytest.mark.nightly
@pytest.mark.parametrize("info", SMALL, ids=lambda info: info.name)
def test_a_small_form_waits_with_values_as_without_and_as_the_full_size_one(info: Any, cpu: Any) -> None:
    pipe = resolve(info.tiny).run(lambda call: call.pipe, cpu, Options())
    models = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {weight.device.type for model in models for weight in model.parameters()} == {"cpu"}
    small = waits(info.tiny, "sim:h100")
    assert small
    assert waits(info.tiny, "cpu") == small
    assert small == waits(info.name, "sim:h100")
