"""Inductor's flags of the published recipe (github.com/huggingface/diffusion-fast), as the fix that compiles, the
ladder and the timing of single layers all set them."""

from __future__ import annotations

from typing import Any

FLAGS = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "epilogue_fusion": False,
}

INT8_FLAGS = {"force_fuse_int_mm_with_mul": True}
"""What the recipe adds where linears are quantized dynamically; without such linears it changes nothing."""


def kernel_options() -> dict[str, Any]:
    """Options of `torch.compile` with which a layer gets the kernels that the recipe gives it in a whole model.

    Without CUDA graphs: a graph of one layer would copy the layer's input at each call, which a whole model's
    graph does for the model's input alone.
    """
    import torch._inductor

    found = {**torch._inductor.list_mode_options("max-autotune-no-cudagraphs"), **FLAGS, **INT8_FLAGS}
    return {
        name: value for name, value in found.items() if hasattr(torch._inductor.config, name.split(".")[0])
    }
