"""Inductor's flags of the published recipe (github.com/huggingface/diffusion-fast): the fix that compiles,
the ladder and the timing of single layers all set these."""

from __future__ import annotations

FLAGS = {
    "conv_1x1_as_mm": True,
    "coordinate_descent_tuning": True,
    "coordinate_descent_check_all_directions": True,
    "epilogue_fusion": False,
}

INT8_FLAGS = {"force_fuse_int_mm_with_mul": True}
"""What the recipe adds where linears are quantized dynamically; without such linears it changes nothing."""
