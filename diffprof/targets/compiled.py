"""What of a pipeline its user compiled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from diffprof.model.pipeline import Pipeline, components, walked, with_role

_WRAPPED = "_torchdynamo_orig_callable"
"""What torch.compile leaves on what it made (torch/_dynamo/eval_frame.py)."""

_INNER = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable", "__wrapped__")
"""Where Dynamo's callbacks keep the one inside (torch/_dynamo/convert_frame.py)."""

COMPILED_ROLES = ("denoiser", "vae")
"""The parts that are compiled when a pipeline is: the published recipes compile the denoiser and the VAE."""


_PLAIN = frozenset({bool, int, float, str, tuple, list, dict, OrderedDict, set, type(None)})
"""Types of nearly all that a module holds, none of which can be called."""

_OWN = frozenset(vars(torch.nn.Module()))
"""What every module holds: no method among it."""


def compiled_roots(pipe: Pipeline) -> tuple[str, ...]:
    """Components that run compiled when the pipeline is compiled."""
    return tuple(name for role in COMPILED_ROLES for name in with_role(pipe, role))


def is_compiled_function(function: object) -> bool:
    """Whether `torch.compile` returned it for a function or method."""
    return hasattr(function, _WRAPPED)


def is_compiled(module: torch.nn.Module) -> bool:
    """Whether calls of a module run compiled code: by `module.compile()`, by `torch.compile(module)`, or by a
    method, `forward` or another one, that was given to torch.compile."""
    own = vars(module)
    if module._compiled_call_impl is not None or "_orig_mod" in own["_modules"]:
        return True
    more = [own[name] for name in own.keys() - _OWN if type(own[name]) not in _PLAIN]
    return any(map(is_compiled_function, (type(module).forward, *more)))


def compiler_settings(models: Iterable[torch.nn.Module]) -> dict[str, object]:
    """Inductor's settings of the first of these models that it compiles: its own options over the process's.
    Empty where it compiles none."""
    for part in models:
        methods = [getattr(part, name, None) for name in ("forward", "decode")]
        for function in (part, *methods, *(m._compiled_call_impl for m in part.modules())):
            backend = _inductor_of(function) if is_compiled_function(function) else None
            if backend is not None:
                return dict(backend.get_compiler_config())
    return {}


def _inductor_of(function: object) -> Any:
    """The backend of what torch.compile returned, where that is Inductor. `get_compiler_config` of the
    function itself says nothing under `fullgraph=True`."""
    held = (cell.cell_contents for cell in getattr(function, "__closure__", None) or ())
    for context in (getattr(function, "dynamo_ctx", None), *held):
        callback = getattr(context, "callback", None)
        while callback is not None:
            if getattr(callback, "compiler_name", None) == "inductor":
                return callback
            callback = next(filter(None, (getattr(callback, name, None) for name in _INNER)), None)
    return None


def own_mode(pipe: Pipeline, *, as_if: bool = False) -> dict[str, Any]:
    """How the pipeline runs by its user's own `torch.compile`, as fields of `diffprof.gpu.mode.Mode`: what
    Inductor compiles, and whether as CUDA graphs. Another backend fuses nothing that is known. as_if: as if
    the denoiser and the VAE were compiled."""
    if as_if:
        return {"compiled": compiled_roots(pipe)}
    parts, found = components(pipe), {}
    for name in dict.fromkeys(name for name, _ in compiled_modules(pipe)):
        if settings := compiler_settings([parts[name]]):
            found[name] = bool(settings.get("triton.cudagraphs"))
    return {"compiled": tuple(found), "graphs": all(found.values())} if found else {}


def compiled_modules(pipe: Pipeline) -> Iterator[tuple[str, str]]:
    """Component and path in it, of every compiled module; the path of the component itself is empty."""
    for name, part in components(pipe).items():
        if isinstance(part, torch.nn.Module):
            yield from ((name, path) for path, module in walked(part) if is_compiled(module))
