"""Captures that are kept: used again for the same pipeline and call, and for nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diffprof.analyzers.graph_breaks import cache as store
from diffprof.analyzers.graph_breaks.capture import Capture
from diffprof.analyzers.graph_breaks.component import CaptureResult
from diffprof.analyzers.graph_breaks.probe import probe_graph_breaks
from diffprof.scanning.scan import scan_target
from diffprof.targets import Options
from tests.analyzers.graph_breaks.tiny import Pipe, Small, TinyCall, small


def test_results_come_from_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    first = probe_graph_breaks(small(one=Small()), None)
    monkeypatch.delattr(os, "fork")
    monkeypatch.setattr("diffprof.analyzers.graph_breaks.probe.can_fork", lambda: True)
    again = probe_graph_breaks(small(one=Small()), None)
    assert [row.cached for row in first["captures"]] == [False]
    assert [row.cached for row in again["captures"]] == [True]
    assert again["captures"][0].ops == first["captures"][0].ops


def test_what_a_capture_did_not_come_to_is_kept() -> None:
    place = ("model.py", 3, "forward")
    result = CaptureResult(Capture(unsearched=[(place, ("model.py", 5, "forward"))]))
    store.store("key", result, ())
    assert store.load("key", CaptureResult) == result


def test_a_changed_source_file_makes_an_entry_void(tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text("a = 1")
    store.store("key", 3, [str(source)])
    assert store.load("key", int) == 3
    source.write_text("a = 2")
    assert store.load("key", int) is None


# --- what is told apart ---------------------------------------------------------------------------------


def test_the_cache_tells_configurations_and_inputs_apart() -> None:
    base = store.key_of(Small(), "inputs")
    assert base == store.key_of(Small(), "inputs")
    assert base != store.key_of(Small(), "other inputs")
    wider = Small()
    wider.linear = nn.Linear(4, 5)
    assert base != store.key_of(wider, "inputs")
    odd = Small()
    odd.lock = threading.Lock()  # type: ignore[assignment]
    assert store.key_of(odd, "inputs") is None, "what can't be told from another is not kept"


def test_arrays_are_told_apart_by_what_is_in_them() -> None:
    keys = [store.key_of({"sigmas": np.array(values)}) for values in ([1.0, 2.0], [1.0, 2.0], [1.0, 3.0])]
    assert keys[0] is not None
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("name", ["torch", "diffusers", "tokenizers", "numpy", "diffprof"])
def test_another_version_is_another_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = store.key_of(Small())
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda of: "99.9" if of == name else version(of))
    store._versions.cache_clear()
    other = store.key_of(Small())
    monkeypatch.undo()
    store._versions.cache_clear()
    assert other != base == store.key_of(Small())


SOURCE = """
import argparse

LOUD = False
OPTIONS = argparse.Namespace(every=1)

class Callback:
    def __call__(self, x, *, times=1):
        if LOUD and OPTIONS.every:
            print(x)

def callback(x, *, times={times}):
    if LOUD:
        print(x)
"""


def user_module(folder: Path, times: int = 1) -> Any:
    """A module of the user's, imported anew."""
    file = folder / "mine.py"
    file.write_text(SOURCE.replace("{times}", str(times)))
    spec = importlib.util.spec_from_file_location("mine_of_the_user", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mine_of_the_user"] = module
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


@pytest.mark.parametrize("name", ["callback", "Callback"])
@pytest.mark.parametrize(
    "change",
    [
        lambda module: setattr(module, "LOUD", True),
        lambda module: setattr(module.OPTIONS, "every", 2),
    ],
)
def test_settings_of_the_users_module_are_part_of_it(
    name: str, change: Callable[[Any], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "mine_of_the_user", raising=False)

    def key(module: Any) -> str | None:
        made = getattr(module, name)
        return store.key_of({"seen": made if name == "callback" else made()})

    base = key(user_module(tmp_path))
    assert base is not None
    module = user_module(tmp_path)
    assert key(module) == base
    change(module)
    assert key(module) != base
    assert key(user_module(tmp_path, times=2)) != base, "the source is part of it"
    monkeypatch.delitem(sys.modules, "mine_of_the_user")


# --- the whole call -------------------------------------------------------------------------------------


class Looping(Pipe):
    """With a denoising loop of its own, of which a user's callback is part."""

    def __call__(self, x: torch.Tensor, seen: Any = None, steps: Any = (3, 2, 1)) -> torch.Tensor:
        unet = self.components["unet"]
        with torch.no_grad():
            for step in steps:
                x = unet(x) * step
                seen(x)
        return x


class Denoising(Small):
    def forward(self, x: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        return super().forward(x)


def one(x: torch.Tensor) -> None:
    print("one")


def other(x: torch.Tensor) -> None:
    x.sum().item()


class Locked:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, x: torch.Tensor) -> None:
        print("locked")


def look(**kwargs: Any) -> tuple[bool, set[str | None]]:
    """Whether the capture of the call came from the cache, and the kinds of its breaks."""
    call = TinyCall(Looping(unet=Denoising()), {"x": torch.ones(2, 4), "seen": one, **kwargs})
    sections = probe_graph_breaks(call, None, scope="call")
    row = next(row for row in sections["captures"] if row.component == "call")
    assert row.failure is None, row.failure
    return row.cached, {each.code for each in sections["graph_breaks"] if each.component == "call"}


@pytest.mark.nightly
def test_another_callback_breaks_elsewhere() -> None:
    first = look()
    assert not first[0]
    assert look() == (True, first[1])
    called = look(seen=other)
    assert not called[0]
    assert called[1] != first[1]


@pytest.mark.slow
def test_captures_of_the_call_come_from_the_cache_for_the_same_arguments_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("capture_part", "capture_step", "capture_call"):
        monkeypatch.setattr(f"diffprof.analyzers.graph_breaks.probe.{name}", nothing_captured)

    def cached(**kwargs: Any) -> bool:
        return look(**kwargs)[0]

    assert not cached()
    assert cached()
    assert not cached(seen=other), "another callback is other code"
    assert not cached(steps=(2, 1))
    assert not cached(steps=torch.tensor([3, 2, 1]))
    assert cached(steps=torch.tensor([3, 2, 1]))
    assert not cached(steps=torch.tensor([3, 2, 2])), "values decide where the code goes"
    assert not cached(seen=[].append)
    assert cached(seen=[].append)
    assert not cached(seen=[0].append), "it holds something else"
    assert not cached(seen=Locked())
    assert not cached(seen=Locked()), "what can't be told from another is captured again"


def nothing_captured(*_: Any, **__: Any) -> CaptureResult:
    return CaptureResult(Capture())


# --- tokenizers -----------------------------------------------------------------------------------------

LETTERS = "abcdefghij"


def clip_tokenizer(letters: str = LETTERS, length: int = 77) -> Any:
    from transformers import CLIPTokenizer

    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, **{f"{c}</w>": n for n, c in enumerate(letters, 2)}}
    return CLIPTokenizer(vocab=words, merges=[], model_max_length=length)


def t5_tokenizer(letters: str = LETTERS, length: int = 77) -> Any:
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), *((f"▁{c}", -3.0) for c in letters)]
    return T5TokenizerFast(vocab=pieces, model_max_length=length)


TOKENIZERS = {"clip": clip_tokenizer, "t5": t5_tokenizer}


def text_to_image(tokenizer: Any) -> Any:
    """The shortest pipeline of diffusers' that reads a prompt."""
    from diffusers import AutoencoderKL, DDIMScheduler, LDMTextToImagePipeline, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    torch.manual_seed(0)
    bert = LDMBertConfig(
        vocab_size=16,
        d_model=16,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        pad_token_id=0,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        attention_head_dim=2,
        cross_attention_dim=16,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    vae = AutoencoderKL(block_out_channels=[8], norm_num_groups=4, sample_size=8)
    return LDMTextToImagePipeline(
        vqvae=vae, bert=LDMBertModel(bert), tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler()
    )


@pytest.fixture(params=TOKENIZERS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A saved pipeline with a real tokenizer of a few words."""
    text_to_image(TOKENIZERS[request.param]()).save_pretrained(tmp_path / request.param)
    return tmp_path / request.param


def loaded(folder: Path) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(folder)


def test_a_pipeline_with_a_real_tokenizer_has_one_key(folder: Path) -> None:
    base = store.key_of(loaded(folder), "call")
    assert base is not None
    pipe = loaded(folder)
    pipe.tokenizer("a b c", padding="max_length", max_length=9)
    pipe.tokenizer("a b c", padding="max_length", max_length=9)
    used = store.key_of(pipe, "call")
    again = loaded(folder)
    assert store.key_of(again, "call") == base
    again.tokenizer("c", padding="max_length", max_length=9)
    assert store.key_of(again, "call") == used


@pytest.mark.slow
def test_changes_of_a_pipeline_are_told_apart(folder: Path) -> None:
    from diffusers import DDIMScheduler, PNDMScheduler

    other = TOKENIZERS[folder.name]

    def words(pipe: Any) -> None:
        pipe.tokenizer = other("abcdefghik")

    def length(pipe: Any) -> None:
        pipe.tokenizer = other(length=16)

    def scheduler(pipe: Any) -> None:
        pipe.scheduler = PNDMScheduler()

    def its_configuration(pipe: Any) -> None:
        pipe.scheduler = DDIMScheduler(set_alpha_to_one=False)

    def progress(pipe: Any) -> None:
        pipe.set_progress_bar_config(disable=True)

    changes = (words, length, scheduler, its_configuration, progress)
    keys = [store.key_of(loaded(folder), "call")]
    for change in changes:
        pipe = loaded(folder)
        change(pipe)
        keys.append(store.key_of(pipe, "call"))
    assert None not in keys
    assert len(set(keys)) == len(keys)


@pytest.mark.nightly
def test_the_call_of_a_checkpoint_is_captured_once(tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    text_to_image(clip_tokenizer()).save_pretrained(folder)

    def look() -> tuple[dict[str, bool], Any]:
        call = {"prompt": "a b c", "height": 8, "width": 8, "output_type": "np"}
        report = scan_target(
            str(folder),
            device="cpu",
            analyzers=("graph-breaks",),
            settings={"scope": "call"},
            options=Options(call=call, steps=2),
        )
        found = report.recording
        assert found.unseen == ()
        rows = [row for row in found.graph_breaks or () if row.component == "call"]
        return {row.component: row.cached for row in found.captures or ()}, rows

    (first, rows), (again, same) = look(), look()
    assert set(first.values()) == {False}
    assert set(again.values()) == {True}
    assert set(again) == {"bert", "unet", "vqvae.decode", "scheduler.step", "step", "call"}
    assert rows == same
    assert rows
