"""Apply a choice to a pipeline, in the known order."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from diffprof.analyzers.quantization.layers import Unavailable, quantize_in_place, quietly
from diffprof.analyzers.quantization.order import check_order
from diffprof.analyzers.quantization.schemes import SCHEMES
from diffprof.analyzers.quantization.source import plain_name
from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline, components
from diffprof.model.recording import Selection


def apply_choice(pipe: Pipeline, selections: Sequence[Selection]) -> tuple[str, ...]:
    """Quantize a pipeline in place as the selections say; returns the qualified names of the layers.

    Inside `diffprof.targets.undo.restored(pipe)` it is undone at the end. Raises UsageError where the
    pipeline has gone through a later step already, has not the component, or a scheme does not run here.
    """
    parts = components(pipe)
    for selection in selections:
        if selection.component not in parts:
            raise UsageError(
                f"This pipeline has no {selection.component!r}, which the choice is for.",
                "Apply a choice to the pipeline that it was made for.",
            )
        check_order(pipe, "quantize", selection.component)
    applied: list[str] = []
    for selection in selections:
        applied.extend(
            f"{selection.component}.{name}" for name in _apply(parts[selection.component], selection)
        )
    return tuple(applied)


def _apply(model: nn.Module, selection: Selection) -> list[str]:
    wanted = {plain_name(name) for name in selection.modules}
    found: list[str] = []

    def is_linear(module: nn.Module, fqn: str) -> bool:
        if isinstance(module, nn.Linear) and plain_name(fqn) in wanted:
            found.append(fqn)
            return True
        return False

    def is_convolution(module: nn.Module, fqn: str) -> bool:
        return isinstance(module, nn.Conv2d) and fqn.replace(".base_layer", "") in wanted

    with quietly():
        if any(is_convolution(module, fqn) for fqn, module in model.named_modules()):
            from torchao.quantization import swap_conv2d_1x1_to_linear

            swap_conv2d_1x1_to_linear(model, is_convolution)
        try:
            quantize_in_place(model, SCHEMES[selection.scheme], is_linear)
        except Unavailable as error:
            raise UsageError(
                f"{selection.scheme} does not run here: {error}.", "Choose again on this device."
            ) from error
    return found
