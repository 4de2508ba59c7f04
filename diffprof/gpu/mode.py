"""How the operations of a simulated call are run: eager or compiled, in which precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .attention import Backend
from .quantized import SCHEMES, Scheme

Chooser = Callable[[str | None, int, int, str], bool]
"""(module, in, out, linear or conv1x1) -> whether it is quantized."""


@dataclass(frozen=True)
class Mode:
    """How the operations are run.

    compiled: module paths that run compiled (`unet`, `vae.decoder`); everything below them counts. graphs:
    compiled parts are replayed as CUDA graphs. quantizes: whether a linear, or a 1x1 convolution swapped
    for one, of a compiled part is quantized; scheme: how. matmul_tf32, conv_tf32: `torch.backends` state.
    attention: the kernel that diffusers' attention backend names; None leaves it to
    `scaled_dot_product_attention`. cudnn_first: it takes cuDNN's kernel where there is one
    (`diffprof.gpu.attention.sdpa_backend`).
    """

    compiled: tuple[str, ...] = ()
    graphs: bool = True
    quantizes: Chooser | None = None
    scheme: Scheme = SCHEMES["int8"]
    matmul_tf32: bool = False
    conv_tf32: bool = True
    attention: Backend | None = None
    cudnn_first: bool = False

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
