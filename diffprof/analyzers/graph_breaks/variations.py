"""Variations of a pipeline call: `height=768`, `batch=2`, `steps=20`, `guidance=1`, `lora_scale=0.5`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffprof.model.errors import UsageError
from diffprof.model.pipeline import Pipeline

if TYPE_CHECKING:
    from diffprof.analyzers.graph_breaks.probe import OneCall

SHORT = {"steps": "num_inference_steps", "guidance": "guidance_scale", "images": "num_images_per_prompt"}
"""Names that people use -> names of call arguments."""

_PROMPTS = ("prompt", "prompt_2", "prompt_3", "negative_prompt", "negative_prompt_2", "negative_prompt_3")
_EMBEDDINGS = tuple(f"{which}prompt_embeds" for which in ("", "negative_", "pooled_", "negative_pooled_"))


_ABSENT = object()


@dataclass(frozen=True, eq=False)
class Variation:
    """One thing changed in the call."""

    name: str
    value: Any

    @property
    def label(self) -> str:
        shown = str(self.value) if _is_plain(self.value) else _form(self.value)
        return f"{self.name}={shown}"


def _is_plain(value: object) -> bool:
    """Whether a value can be printed as it is."""
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _form(value: object) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} {'x'.join(map(str, shape))}"


def variations(
    pipe: Pipeline, kwargs: Mapping[str, object], vary: Mapping[str, Sequence[object]]
) -> list[Variation]:
    """The variations that were asked for, without those that are what the call is anyway.

    Raises UsageError for a name that the pipeline's call does not take.
    """
    taken = inspect.signature(type(pipe).__call__).parameters
    found = []
    for name, values in vary.items():
        argument = SHORT.get(name, name)
        if not (name in ("batch", "lora_scale", "adapter") or argument in taken or _takes_any(taken)):
            known = ", ".join([*SHORT, "batch", "lora_scale", "adapter"])
            raise UsageError(
                f"{type(pipe).__name__} can't be called with {argument!r}, so --vary {name} does nothing.",
                f"Name an argument of its call, or one of {known}.",
            )
        if name in ("lora_scale", "adapter") and not hasattr(pipe, "set_adapters"):
            raise UsageError(f"{type(pipe).__name__} takes no adapters.", f"Leave out --vary {name}.")
        found += [Variation(name, v) for v in values if not _same(kwargs.get(argument, _ABSENT), v)]
    return found


def _same(given: object, value: object) -> bool:
    """Plain values that are equal; anything else is another one."""
    return isinstance(value, bool | int | float | str) and type(given) is type(value) and given == value


def _takes_any(taken: Mapping[str, inspect.Parameter]) -> bool:
    return any(p.kind is p.VAR_KEYWORD for p in taken.values())


@contextmanager
def applied(call: OneCall, variation: Variation | None) -> Iterator[None]:
    """The call is varied while the context is open."""
    if variation is None:
        yield
        return
    before = dict(call.kwargs)
    undo = _change(call, variation)
    try:
        yield
    finally:
        call.kwargs.clear()
        call.kwargs.update(before)
        undo()


def _change(call: OneCall, variation: Variation) -> Any:
    name, value = variation.name, variation.value
    if name == "batch":
        _repeat(call.kwargs, int(value))
    elif name == "lora_scale":
        return _adapters(call.pipe, list(call.pipe.get_active_adapters()), float(value))
    elif name == "adapter":
        return _adapters(call.pipe, [value], 1.0)
    else:
        call.kwargs[SHORT.get(name, name)] = value
    return lambda: None


def _repeat(kwargs: dict[str, Any], times: int) -> None:
    """That many prompts in the place of the call's own."""
    for name in _PROMPTS:
        if kwargs.get(name) is not None:
            first = kwargs[name] if isinstance(kwargs[name], str) else kwargs[name][0]
            kwargs[name] = [first] * times
    for name in _EMBEDDINGS:
        if kwargs.get(name) is not None:
            kwargs[name] = kwargs[name][:1].repeat(times, *[1] * (kwargs[name].dim() - 1))


def _adapters(pipe: Pipeline, names: list[str], weight: float) -> object:
    before = _weights(pipe)
    pipe.set_adapters(names, [weight] * len(names))
    return lambda: pipe.set_adapters(list(before), list(before.values())) if before else None


def _weights(pipe: Pipeline) -> dict[str, float]:
    """Active adapters with their weights, read off the first layer that has them."""
    active = pipe.get_active_adapters()
    for part in pipe.components.values():
        for module in getattr(part, "modules", tuple)():
            scaling, base = getattr(module, "scaling", None), getattr(module, "lora_alpha", None)
            if isinstance(scaling, dict) and isinstance(base, dict):
                rank = module.r
                return {n: scaling[n] / (base[n] / rank[n]) for n in active if n in scaling}
    return dict.fromkeys(active, 1.0)
