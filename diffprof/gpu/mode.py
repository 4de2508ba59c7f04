"""How the operations of a simulated call are run: eager or compiled, in which precision."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .attention import Backend
from .quantized import SCHEMES, LinearScheme

Chooser = Callable[[str | None, int, int, str], bool]
"""(module, in, out, linear or conv1x1) -> whether it is quantized."""


@dataclass(frozen=True)
class Mode:
    """How the operations are run.

    compiled: module paths that run compiled (`unet`, `vae.decoder`); everything below them counts. graphs:
    compiled parts are replayed as CUDA graphs. quantizes: whether a linear, or a 1x1 convolution of a
    compiled part swapped for one, is quantized; scheme: how. matmul_tf32, conv_tf32: `torch.backends` state.
    attention: the kernel that diffusers' attention backend names; None leaves it to
    `scaled_dot_product_attention`. cudnn_first: it takes cuDNN's kernel where there is one
    (`diffprof.gpu.attention.sdpa_backend`).
    """

    compiled: tuple[str, ...] = ()
    graphs: bool = True
    quantizes: Chooser | None = None
    scheme: LinearScheme = SCHEMES["int8"]
    matmul_tf32: bool = False
    conv_tf32: bool = True
    attention: Backend | None = None
    cudnn_first: bool = False

    @property
    def name(self) -> str:
        return "compiled" if self.compiled else "eager"


def current_mode(**changes: object) -> Mode:
    """Eager, with the TF32 settings that PyTorch has now, and the kernels of its version."""
    own = {
        "matmul_tf32": torch.backends.cuda.matmul.fp32_precision == "tf32",
        "conv_tf32": torch.backends.cudnn.conv.fp32_precision == "tf32",
        "cudnn_first": cudnn_first(torch.__version__),
    }
    return Mode(**{**own, **changes})


def cudnn_first(version: str) -> bool:
    """Whether this PyTorch's own wheels prefer cuDNN's attention on Hopper: 2.5.0 did, and from 2.11 on they
    bring a cuDNN that is new enough for `check_prefer_cudnn_attention` in sdp_utils.cpp."""
    release = tuple(int(part) for part in version.partition("+")[0].split(".")[:3] if part.isdigit())
    if os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") == "1":
        return False
    return release >= (2, 11) or release == (2, 5, 0)
