"""Weights kept on the host: without values or memory, or with values that the device shall not know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from diffusers.hooks import apply_group_offloading

from diffprof.devices.simulated import is_known, placeholder, values_unknown


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc on this system")
def test_a_weight_left_out_takes_no_memory_wherever_it_is_moved(sim: torch.device) -> None:
    before = resident()
    weight = placeholder(torch.empty(1 << 30, dtype=torch.float32, device="meta"))
    for _ in range(2):
        weight = weight.to(sim)
        assert not is_known(weight)
        weight = weight.to("cpu")
    assert weight.shape == (1 << 30,)
    assert resident() - before < 1 << 26


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc on this system")
def test_stacked_pictures_that_nobody_has_take_no_memory(sim: torch.device) -> None:
    before = resident()
    picture = torch.empty(1 << 12, 1 << 12, device="meta", dtype=torch.float32)
    pictures = [placeholder(picture).numpy() for _ in range(4)]
    video = np.stack([each.transpose(1, 0) for each in pictures])
    assert (video.shape, video.dtype) == ((4, 1 << 12, 1 << 12), np.float32)
    assert np.stack(pictures, axis=-1).shape == (1 << 12, 1 << 12, 4)
    assert resident() - before < 1 << 26
    known = np.ones_like(pictures[0][:2])
    assert np.stack([known, pictures[0][:2]]).sum() == known.size


@pytest.mark.parametrize("n", [3, 300])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_its_geometry_is_as_asked(n: int, dtype: torch.dtype) -> None:
    like = torch.empty(n, 4, n, 2, dtype=dtype, device="meta").contiguous(memory_format=torch.channels_last)
    made = placeholder(like)
    assert (made.shape, made.stride(), made.dtype, made.device.type) == (
        like.shape,
        like.stride(),
        dtype,
        "cpu",
    )
    assert not made.any()
    made.fill_(1)
    assert made.bool().all()


def test_pinned_it_stands_for_the_same(sim: torch.device) -> None:
    pinned = placeholder(torch.empty(300, 300, device="meta")).pin_memory()
    assert pinned.is_pinned()
    assert not is_known(pinned.to(sim, non_blocking=True))


class Norm(torch.nn.BatchNorm1d):
    """Notes what the device knows while it runs: its buffer, its weight, its input."""

    def __init__(self) -> None:
        super().__init__(4)
        self.known: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.known += [is_known(self.running_mean), is_known(self.weight), is_known(x)]
        return super().forward(x)


def whole_model(module: torch.nn.Module, sim: torch.device) -> None:
    accelerate.cpu_offload_with_hook(module, sim)


def sequential(module: torch.nn.Module, sim: torch.device) -> None:
    accelerate.cpu_offload(module, sim, offload_buffers=True)


def by_leaf(module: torch.nn.Module, sim: torch.device) -> None:
    apply_group_offloading(module, sim, torch.device("cpu"), offload_type="leaf_level")


def by_stream(module: torch.nn.Module, sim: torch.device) -> None:
    apply_group_offloading(module, sim, torch.device("cpu"), offload_type="leaf_level", use_stream=True)


@pytest.mark.parametrize("offload", [whole_model, sequential, by_leaf, by_stream])
def test_offloaded_weights_are_unknown_on_the_device_and_buffers_known(
    offload: Any, sim: torch.device
) -> None:
    norm = Norm()
    module = torch.nn.Sequential(torch.nn.Linear(4, 4), norm).eval()
    offload(module, sim)
    with torch.no_grad(), values_unknown([module]):
        module(torch.ones(2, 4, device=sim))
    assert norm.known == [True, False, False]


def test_after_it_the_weights_are_known_again(sim: torch.device) -> None:
    layer = torch.nn.Linear(4, 4)
    with values_unknown([layer]):
        assert not is_known(layer.weight.to(sim))
    assert is_known(layer.weight.to(sim))
