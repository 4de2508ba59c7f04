"""Ways in which a call is priced, by name."""

from __future__ import annotations

from collections.abc import Sequence

from diffprof.model.errors import UsageError

MODES = ("eager", "compiled", "int8", "fp8")
"""eager: as the pipeline is. compiled: denoiser and VAE compiled, with CUDA graphs. int8, fp8: compiled, with
every linear of the denoiser and VAE quantized dynamically."""


def check_modes(modes: Sequence[str]) -> None:
    """Raises UsageError for one that is not in MODES."""
    for mode in modes:
        if mode not in MODES:
            raise UsageError(f"There is no mode {mode!r}.", f"Choose from: {', '.join(MODES)}.")
