"""What a diffusers pipeline is, told from what it has: its components and what each can do. Nothing here asks
for a class by name, or needs torch."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch


class Pipeline(Protocol):
    """A diffusers pipeline, or what works as one. It has its components as attributes, too, which may be put
    in the place of others."""

    @property
    def components(self) -> Mapping[str, Any]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __getattr__(self, name: str) -> Any: ...

    def __setattr__(self, name: str, value: Any) -> None: ...


ROLES = ("denoiser", "scheduler", "vae", "text_encoder", "tokenizer", "other")


def components(pipe: Pipeline) -> dict[str, Any]:
    """Name -> component, absent ones left out; those of nested pipelines as `outer.inner`."""
    found: dict[str, object] = {}
    try:
        named = dict(pipe.components)
    except (AttributeError, TypeError, ValueError):
        named = {k: v for k, v in vars(pipe).items() if not k.startswith("_")}
    for name, part in named.items():
        if part is None or isinstance(part, (bool, int, float, str, dict)):
            continue
        if is_pipeline(part):
            found.update({f"{name}.{inner}": value for inner, value in components(part).items()})
        else:
            found[name] = part
    return found


def is_pipeline(thing: object) -> bool:
    """Something called with a prompt that has components of its own: not a module, callable."""
    return callable(thing) and hasattr(thing, "components") and not hasattr(thing, "named_modules")


def role(name: str, part: object) -> str:
    """One of ROLES, by what the component can do."""
    if _is_module(part):
        if callable(getattr(part, "decode", None)) and not _takes_timestep(part):
            return "vae"
        if _takes_timestep(part):
            return "denoiser"
        last = name.rsplit(".", 1)[-1]
        if "encoder" in last and hasattr(part, "get_input_embeddings"):
            return "text_encoder"
        return "other"
    if callable(getattr(part, "step", None)) and callable(getattr(part, "set_timesteps", None)):
        return "scheduler"
    if callable(getattr(part, "decode", None)) and callable(part) and hasattr(part, "model_max_length"):
        return "tokenizer"
    return "other"


def with_role(pipe: Pipeline, wanted: str) -> dict[str, Any]:
    """The components of one role, in the pipeline's order."""
    return {name: part for name, part in components(pipe).items() if role(name, part) == wanted}


def walked(part: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Module]]:
    """What `named_modules` gives, in the same order: without a generator in a generator for each level."""
    seen: set[int] = set()
    waiting = [("", part)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        if inner := module._modules:
            below = f"{path}." if path else ""
            waiting += [(below + name, each) for name, each in reversed(inner.items()) if each is not None]


def module_names(pipe: Pipeline) -> dict[int, str]:
    """id(module) -> qualified name, such as `unet.mid_block.attentions.0`, for every module."""
    names: dict[int, str] = {}
    for name, part in components(pipe).items():
        if not _is_module(part):
            names.setdefault(id(part), name)
            continue
        for inner, module in walked(part):
            # What torch.compile wraps is found under `_orig_mod`, which is no part of the user's own path.
            inner = inner.replace("_orig_mod.", "").removesuffix("_orig_mod").rstrip(".")
            names.setdefault(id(module), f"{name}.{inner}" if inner else name)
    return names


def execution_device(pipe: Pipeline) -> torch.device | None:
    """The device on which the pipeline computes (with offloading: where it will be moved to)."""
    device = getattr(pipe, "_execution_device", None)
    return device if device is not None else getattr(pipe, "device", None)


def offloaded(pipe: Pipeline) -> bool:
    """Whether hooks move the pipeline's modules while it runs."""
    for part in components(pipe).values():
        if _is_module(part):
            for _, module in walked(part):
                own = vars(module)
                hooks = getattr(own.get("_diffusers_hook"), "hooks", None) or {}
                if "_hf_hook" in own or any("offload" in name for name in hooks):
                    return True
    return False


def _is_module(part: object) -> bool:
    return callable(getattr(part, "named_modules", None)) and callable(getattr(part, "forward", None))


def _takes_timestep(module: torch.nn.Module) -> bool:
    """Denoisers are the models that are told how noisy their input is. One that passes on whatever it is
    given takes what its base classes take, or the model that it wraps."""
    cls: object = type(module)
    taken = _forward_parameters(cls)
    if any(map(is_timestep, taken)):
        return True
    return not taken and any(map(_takes_timestep, module.children()))


@functools.cache
def _forward_parameters(cls: type) -> frozenset[str]:
    """Names that `forward` takes, in the class or, where it passes arguments on, in a base class."""
    names: set[str] = set()
    for base in cls.__mro__:
        if "forward" not in vars(base):
            continue
        try:
            parameters = list(inspect.signature(vars(base)["forward"]).parameters.values())[1:]
        except (TypeError, ValueError):
            break
        passed_on = [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        names |= {p.name for p in parameters if p not in passed_on}
        if not passed_on:
            break
    return frozenset(names)


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute of an object or a class while the context is open; after it, it is as it was.

    Inherited and absent attributes are absent again, not set to what was inherited.
    """
    absent = object()
    before = vars(owner).get(name, absent)
    place = type if isinstance(owner, type) else object
    place.__setattr__(owner, name, value)
    try:
        yield
    finally:
        if before is not absent:
            place.__setattr__(owner, name, before)
        elif name in vars(owner):
            place.__delattr__(owner, name)


def is_timestep(name: str) -> bool:
    return name.startswith("timestep") or name in {"t", "r", "sigma"}
