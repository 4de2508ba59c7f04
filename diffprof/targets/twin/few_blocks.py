"""Leaving out of a small pipeline's models what comes again: of equal blocks in a row a few tell the same."""

from __future__ import annotations

import torch

from diffprof.model.pipeline import with_role
from diffprof.targets.pipeline_call import PipelineCall

KEPT_BLOCKS = 2
"""Of each list of equal blocks: one that follows another is there."""

TIED_LAYERS = 3
"""Layers of one level of a UNet, at most: skip connections tie each to one of another level."""


def runs_with_few_blocks(call: PipelineCall) -> bool:
    """Take equal blocks out of the denoisers of a call's pipeline, and make the call. Where it does not run,
    they are in their places again."""
    before: list[tuple[torch.nn.Module, str, torch.nn.ModuleList]] = []
    for model in with_role(call.pipe, "denoiser").values():
        for parent in list(model.modules()):
            least = KEPT_BLOCKS if parent is model else TIED_LAYERS
            for name, blocks in list(parent.named_children()):
                if (
                    isinstance(blocks, torch.nn.ModuleList)
                    and len(set(map(type, blocks))) == 1
                    and len(blocks) > least
                ):
                    before.append((parent, name, blocks))
                    setattr(parent, name, blocks[:KEPT_BLOCKS])
    if not before:
        return False
    try:
        with torch.no_grad():
            call.run()
    except Exception:
        for parent, name, blocks in before:
            setattr(parent, name, blocks)
        return False
    return True
