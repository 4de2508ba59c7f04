"""A device that only says what it is, and pipelines and files small enough to be made for one test."""

from __future__ import annotations

import importlib
import os
import random
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


class FakeDevice:
    """The CPU. wants_values: whether architectures get values; places: what was moved here."""

    spec = "fake"

    def __init__(self, wants_values: bool = True, kind: str = "cpu") -> None:
        from diffprof.gpu.specs import load_spec

        self.kind = kind
        self.gpu = load_spec("a100-80gb") if kind == "sim" else None
        self.wants_values = wants_values
        self.places: list[Any] = []

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    def place(self, thing: Any) -> None:
        self.places.append(thing)


@pytest.fixture
def cpu() -> FakeDevice:
    return FakeDevice()


@pytest.fixture
def shapes() -> FakeDevice:
    """A device without values."""
    return FakeDevice(wants_values=False)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    """Writes a file of the user's."""

    def write(name: str, source: str) -> Path:
        file = tmp_path / name
        file.write_text(textwrap.dedent(source))
        return file

    return write


def process_state() -> dict[str, Any]:
    """What a target may touch while it runs."""
    from diffusers import DiffusionPipeline, ModelMixin, StableDiffusionXLPipeline
    from transformers import PreTrainedModel

    owners = {
        "torch": (torch, ("Generator", "load", "set_default_device", "randn", "device")),
        "cuda": (
            torch.cuda,
            ("is_available", "synchronize", "Event", "Stream", "device_count", "mem_get_info"),
        ),
        "autocast": (torch.autocast, ("__init__",)),
        "tensor": (torch.Tensor, ("to", "cuda")),
        "module": (torch.nn.Module, ("to", "cuda", "register_parameter")),
        "init": (torch.nn.init, ("normal_", "kaiming_uniform_")),
        "pipeline": (
            DiffusionPipeline,
            ("to", "from_pretrained", "enable_model_cpu_offload", "__init_subclass__"),
        ),
        "sdxl": (StableDiffusionXLPipeline, ("__call__",)),
        "model": (ModelMixin, ("from_pretrained",)),
        "transformer": (PreTrainedModel, ("from_pretrained", "initialize_weights")),
    }
    names = {
        f"{label}.{name}": vars(owner).get(name) for label, (owner, held) in owners.items() for name in held
    }
    return {
        **names,
        "argv": list(sys.argv),
        "path": list(sys.path),
        "main": sys.modules["__main__"],
        "stdout": sys.stdout,
        "folder": os.getcwd(),
        "environment": {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"},
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "modes": torch._C._len_torch_function_stack(),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch_rng": torch.get_rng_state().tolist(),
    }


@pytest.fixture
def unchanged() -> Iterator[None]:
    """Fails the test if it left something behind in the process."""
    importlib.import_module("diffusers.modular_pipelines.modular_pipeline")
    before = process_state()
    yield
    after = process_state()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed


TINY = """
    import torch
    from diffusers import DDIMScheduler, DDPMPipeline, UNet2DModel

    def tiny():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=4,
            layers_per_block=1, down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
        pipe = DDPMPipeline(unet.eval(), DDIMScheduler())
        pipe.set_progress_bar_config(disable=True)
        return pipe
"""


@pytest.fixture
def tiny(write: Callable[[str, str], Path]) -> Path:
    """The folder of a module `tiny_pipeline` with a function `tiny` that makes an unconditional pipeline."""
    return write("tiny_pipeline.py", TINY).parent


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved pipeline with a text encoder, a real tokenizer of a few words, and float32 weights."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    words = {
        "<|startoftext|>": 0,
        "<|endoftext|>": 1,
        **{f"{c}</w>": n for n, c in enumerate("abcdefghij", 2)},
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe = StableDiffusionPipeline(
            vae=AutoencoderKL(
                block_out_channels=(8, 8),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                norm_num_groups=4,
                sample_size=16,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=16,
                    intermediate_size=16,
                    num_attention_heads=2,
                    num_hidden_layers=1,
                    vocab_size=len(words),
                    eos_token_id=1,
                    projection_dim=16,
                )
            ),
            tokenizer=CLIPTokenizer(vocab=words, merges=[], model_max_length=77),
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(8, 8),
                norm_num_groups=4,
                layers_per_block=1,
                attention_head_dim=2,
                cross_attention_dim=16,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            ),
            scheduler=PNDMScheduler(skip_prk_steps=True),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint that a test may damage."""
    import shutil

    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny-model"))
