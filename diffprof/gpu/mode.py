"""How the operations of a simulated call are run: eager or compiled, in which precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Chooser = Callable[[str | None, int, int, str], bool]
"""(module, in, out, linear or conv1x1) -> whether it is quantized."""


@dataclass(frozen=True)
class Mode:
    """How the operations are run.

    compiled: module paths that run compiled (`unet`, `vae.decoder`); everything below them counts.
    graphs: compiled parts are replayed as CUDA graphs. int8: whether a linear, or a 1x1 convolution
    swapped for one, of a compiled part is quantized dynamically to INT8. matmul_tf32, conv_tf32:
    `torch.backends` state.
    """

    compiled: tuple[str, ...] = ()
    graphs: bool = True
    int8: Chooser | None = None
    matmul_tf32: bool = False
    conv_tf32: bool = True

    @property
    def name(self) -> str:
        return "compiled" if self.compiled else "eager"


def current_mode(**changes: Any) -> Mode:
    """Eager, with the TF32 settings that PyTorch has now."""
    return Mode(
        matmul_tf32=torch.backends.cuda.matmul.fp32_precision == "tf32",
        conv_tf32=torch.backends.cudnn.conv.fp32_precision == "tf32",
        **changes,
    )
