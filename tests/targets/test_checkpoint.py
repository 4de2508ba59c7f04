from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffprof.model.errors import TargetError, UsageError
from diffprof.targets import Options, resolve
from diffprof.targets.components import components_of


def call_of(folder: Path, device: Any, **options: Any) -> Any:
    return resolve(str(folder)).run(lambda call: call, device, Options(**options))


def test_a_folder_is_loaded_and_called(tiny_checkpoint: Path, cpu: Any, unchanged: None) -> None:
    call = call_of(tiny_checkpoint, cpu, steps=2)
    assert call.weights == "real"
    assert type(call.pipe.tokenizer).__name__.startswith("CLIPTokenizer")
    image = np.asarray(call.run().images[0])
    assert image.shape == (16, 16, 3)
    assert (image == np.asarray(call.run().images[0])).all()


def test_without_weights_only_configurations_are_read(checkpoint: Path, shapes: Any) -> None:
    for file in [*checkpoint.rglob("*.safetensors"), *checkpoint.rglob("*.bin")]:
        file.unlink()
    call = call_of(checkpoint, shapes, weights=False)
    assert call.weights == "none"
    loaded = {row.name: row for row in components_of(call.pipe)}
    assert loaded["unet"].parameters == sum(p.numel() for p in call.pipe.unet.parameters())
    assert loaded["unet"].device == "meta"
    assert loaded["tokenizer"].cls.startswith("CLIPTokenizer")
    assert call.notes == []


def test_weights_are_not_loaded_where_values_are_not_wanted(tiny_checkpoint: Path, shapes: Any) -> None:
    call = call_of(tiny_checkpoint, shapes)
    assert call.weights == "none"
    assert call.notes == ["Weights were not loaded: shapes are all that is needed here."]


def test_the_architecture_alone_equals_what_is_loaded(tiny_checkpoint: Path, cpu: Any, shapes: Any) -> None:
    loaded = call_of(tiny_checkpoint, cpu, dtype="bf16").pipe
    empty = call_of(tiny_checkpoint, shapes, weights=False, dtype="bf16").pipe
    assert type(empty) is type(loaded)
    for name in ("unet", "vae", "text_encoder"):
        a, b = getattr(loaded, name), getattr(empty, name)
        for kind in ("named_parameters", "named_buffers"):
            assert [(n, t.shape, t.dtype) for n, t in getattr(a, kind)()] == [
                (n, t.shape, t.dtype) for n, t in getattr(b, kind)()
            ]
        assert (
            a.config == {**b.config, "_name_or_path": a.config["_name_or_path"]}
            if name != "text_encoder"
            else True
        )
        assert a.training is b.training is False
    assert dict(loaded.scheduler.config) == dict(empty.scheduler.config)


def test_without_weights_and_with_values_they_are_random(tiny_checkpoint: Path, cpu: Any) -> None:
    call = call_of(tiny_checkpoint, cpu, weights=False, steps=1)
    assert call.weights == "random"
    assert np.asarray(call.run().images[0]).shape == (16, 16, 3)


def test_a_tokenizer_without_vocabulary_gets_a_stand_in(checkpoint: Path, shapes: Any) -> None:
    for file in (checkpoint / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()
    pipe = call_of(checkpoint, shapes, weights=False).pipe
    assert type(pipe.tokenizer).__name__ == "StandInTokenizer"
    assert pipe.tokenizer.vocab_size == pipe.text_encoder.config.vocab_size
    assert pipe.tokenizer.eos_token_id == 1


@pytest.mark.parametrize("missing", ["unet", "unet/config.json", "scheduler/scheduler_config.json", "vae"])
def test_a_missing_component_is_named(checkpoint: Path, shapes: Any, missing: str) -> None:
    import shutil

    path = checkpoint / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(TargetError) as error:
        call_of(checkpoint, shapes, weights=False)
    assert missing.split("/")[0] in error.value.what
    assert error.value.hint


def test_missing_weights_are_the_target_s_failure(checkpoint: Path, cpu: Any) -> None:
    next((checkpoint / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(TargetError, match="can't be loaded"):
        call_of(checkpoint, cpu)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path, cpu: Any) -> None:
    with pytest.raises(UsageError, match=r"no model_index\.json"):
        call_of(tmp_path, cpu)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UsageError, match="can't be read"):
        call_of(tmp_path, cpu)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "TomorrowsPipeline"}))
    with pytest.raises(TargetError, match="'TomorrowsPipeline'"):
        call_of(tmp_path, cpu, weights=False)


def test_a_checkpoint_from_the_hub_that_can_t_be_had(
    monkeypatch: pytest.MonkeyPatch, shapes: Any, tmp_path: Path
) -> None:
    import huggingface_hub

    def offline(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    hints = {}
    for repo in ("nobody/nothing", "black-forest-labs/FLUX.1-dev"):
        with pytest.raises(TargetError) as error:
            resolve(repo).run(lambda call: call, shapes, Options())
        assert "ConnectionError: no network" in error.value.what
        hints[repo] = error.value.hint
    assert "`diffprof targets`" in hints["nobody/nothing"]
    assert "`diffprof scan flux`" in hints["black-forest-labs/FLUX.1-dev"]


def test_a_checkpoint_from_the_hub_needs_its_configurations_only(
    monkeypatch: pytest.MonkeyPatch, shapes: Any, tiny_checkpoint: Path
) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def download(repo: str, **kwargs: Any) -> str:
        asked.update(kwargs, repo=repo)
        return str(tiny_checkpoint)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    call = resolve("some/model").run(lambda call: call, shapes, Options(weights=False))
    assert call.weights == "none"
    assert asked["repo"] == "some/model"
    assert not any("safetensors" in pattern or "bin" in pattern for pattern in asked["allow_patterns"])
