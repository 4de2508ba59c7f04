"""The known order is held: what comes too late is refused with the reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from diffprof.analyzers.quantization.layers import quantize_in_place
from diffprof.analyzers.quantization.order import STEPS, check_order, disorder, done, unfused_adapters
from diffprof.analyzers.quantization.schemes import SCHEMES
from diffprof.model.errors import UsageError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(32, 32)
        self.to_k = nn.Linear(32, 32)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        return self.to_q(given) + self.to_k(given)


def pipeline(model: nn.Module | None = None) -> Any:
    return SimpleNamespace(components={"unet": model or Model()})


def adapted(model: nn.Module) -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    return inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), model)


def quantize(model: nn.Module, keep: str = "") -> None:
    quantize_in_place(
        model,
        SCHEMES["int8-weight-only"],
        lambda module, fqn: isinstance(module, nn.Linear) and (not keep or keep not in fqn),
    )


def test_nothing_is_done_to_a_fresh_pipeline() -> None:
    pipe = pipeline()
    assert done(pipe) == {}
    for step in STEPS:
        check_order(pipe, step)


def test_steps_are_seen() -> None:
    model = adapted(Model())
    assert unfused_adapters(pipeline(model)) == "unet.to_q"
    model.to_q.merge()
    assert done(pipeline(model)) == {"fuse-lora": "unet.to_q"}
    assert unfused_adapters(pipeline(model)) is None
    model = Model()
    model.fused_projections = True
    assert done(pipeline(model)) == {"fuse-qkv": "unet"}


@pytest.mark.parametrize("step", ["fuse-lora", "fuse-qkv", "swap-convs", "quantize"])
def test_after_quantizing_only_compiling_is_left(step: str) -> None:
    pipe = pipeline()
    quantize(pipe.components["unet"])
    with pytest.raises(UsageError, match=r"unet\.to_q") as caught:
        check_order(pipe, step)
    assert "Build the pipeline again" in caught.value.hint
    check_order(pipe, "compile")


@pytest.mark.parametrize("step", STEPS[:-1])
def test_after_compiling_nothing_is(step: str) -> None:
    model = Model()
    model.compile(backend="eager")
    with pytest.raises(UsageError, match="compile already"):
        check_order(pipeline(model), step)


def test_other_components_do_not_matter() -> None:
    pipe = SimpleNamespace(components={"unet": Model(), "vae": Model()})
    quantize(pipe.components["vae"])
    check_order(pipe, "quantize", "unet")
    with pytest.raises(UsageError):
        check_order(pipe, "quantize", "vae")


def test_the_reasons_are_true() -> None:
    """What is refused does fail, or leaves something undone."""
    model = adapted(Model())
    quantize(model, keep="lora_")
    with pytest.raises(Exception, match=r"."):
        model.to_q.merge()
    fused = Model()
    quantize(fused)
    with pytest.raises(NotImplementedError, match="cat"):
        torch.cat([fused.to_q.weight.data, fused.to_k.weight.data])


def test_disorder_is_told() -> None:
    model = adapted(Model())
    assert list(disorder(pipeline(model))) == []
    quantize(model)
    signs = " ".join(disorder(pipeline(model)))
    assert "lora_A" in signs
    assert "can't be fused any more" in signs


def test_unknown_steps_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="not in tuple"):
        check_order(pipeline(), "paint")
