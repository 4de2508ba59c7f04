"""A tiny SDXL with what the quantization tests do to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from diffprof.targets import Options, resolve


@dataclass
class FakeDevice:
    """The CPU, told apart from the one in use only by its name."""

    kind: str = "cpu"
    gpu: None = None
    spec: str = "cpu"
    name: str = "a CPU"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def torch_device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def grade(self) -> Any:
        from diffprof.model.recording import Grade

        return Grade.MEASURED

    def info(self) -> Any:
        from diffprof.model.recording import DeviceInfo

        return DeviceInfo(
            spec=self.spec, kind=self.kind, name=self.name, grade=self.grade, details=self.details
        )


def with_tiny_sdxl(play: Callable[[Any], Any], **options: Any) -> Any:
    """Play a call of the built-in tiny SDXL on the CPU, two steps unless told otherwise."""
    from diffprof.devices import resolve_device

    device = resolve_device("cpu")
    with device.active():
        return resolve("tiny-sdxl").run(play, device, Options(**{"steps": 2, **options}))


def add_lora(pipe: Any, rank: int = 4) -> None:
    """A LoRA on the attention projections of the UNet, with values that change its output."""
    from peft import LoraConfig

    pipe.unet.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"])
    )
    with torch.no_grad():
        for name, parameter in pipe.unet.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)


def swap_convolutions(model: torch.nn.Module) -> None:
    """All 1x1 convolutions of a model as linears."""
    from torchao.quantization import swap_conv2d_1x1_to_linear

    swap_conv2d_1x1_to_linear(
        model,
        lambda module, fqn: (
            isinstance(module, torch.nn.Conv2d) and module.kernel_size == (1, 1) and module.stride == (1, 1)
        ),
    )
