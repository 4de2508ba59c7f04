"""Which submodules of a component the user compiled one by one, as `compile_repeated_blocks` does."""

from __future__ import annotations

from collections import Counter

import torch

from diffprof.targets.compiled import is_compiled


def compiled_inside(component: object) -> dict[str, int]:
    """Class of the submodules -> how many of it are compiled on their own. Empty where the component, or a
    method of it, is compiled as a whole: what stands inside is inlined then."""
    if not isinstance(component, torch.nn.Module) or is_compiled(component):
        return {}
    inner = [module for module in component.modules() if is_compiled(module)]
    return dict(Counter(type(module._modules.get("_orig_mod", module)).__name__ for module in inner))
