"""Which submodules of a component the user compiled one by one, as `compile_repeated_blocks` does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

_WRAPPED = "_torchdynamo_orig_callable"
"""What torch.compile leaves on what it made (torch/_dynamo/eval_frame.py)."""


def compiled_inside(component: Any, method: str) -> dict[str, int]:
    """Class of the submodules -> how many of it are compiled on their own. Empty where the component, or that
    method of it, is compiled as a whole: what stands inside is inlined then."""
    if not isinstance(component, torch.nn.Module) or is_compiled(component):
        return {}
    if hasattr(getattr(component, method, None), _WRAPPED):
        return {}
    inner = [module for module in component.modules() if module is not component and is_compiled(module)]
    return dict(Counter(type(module._modules.get("_orig_mod", module)).__name__ for module in inner))


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether calls of a module run compiled code: by `module.compile()`, `torch.compile(module)`, or a
    `forward` that was given to torch.compile."""
    return (
        module._compiled_call_impl is not None
        or "_orig_mod" in module._modules
        or hasattr(vars(module).get("forward"), _WRAPPED)
        or hasattr(type(module).forward, _WRAPPED)
    )
