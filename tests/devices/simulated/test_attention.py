"""Attention on the simulated device."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffprof.analyzers.kernels.simulated import SimulatedKernels
from diffprof.devices import resolve_device
from diffprof.devices.simulated import observing


def test_attention_is_computed_by_what_the_process_allows() -> None:
    """`sdpa_kernel` changes the kernel, on a GPU whose default is another one."""

    def kernels(*allowed: SDPBackend, first: bool = False) -> list[str]:
        where = sdpa_kernel(list(allowed), set_priority=first) if allowed else nullcontext()
        with device.active() as place, torch.no_grad(), where:
            q = torch.randn(1, 4, 1024, 64, device=place, dtype=torch.bfloat16)
            seen = SimulatedKernels(device.gpu, SimpleNamespace(components={}))  # type: ignore[attr-defined]
            with observing(seen):
                torch.nn.functional.scaled_dot_product_attention(q, q, q)
            return [row.name for row in seen.sections()["kernels"]]

    device = resolve_device("sim:a100-80gb")
    cudnn, flash = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION
    assert kernels() == ["flash_attention"]
    assert kernels(cudnn) == ["cudnn_attention"]
    assert kernels(cudnn, flash) == ["flash_attention"]
    assert kernels(cudnn, flash, first=True) == ["cudnn_attention"]
    assert sorted(kernels(SDPBackend.MATH)) == ["bmm", "bmm", "softmax"]
