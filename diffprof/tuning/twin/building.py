"""A shrunken twin: the same pipeline classes with the same blocks, heads and features, every width divided by
one factor, seeded random weights. Where weights have no values, outputs are compared on it."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from diffprof.targets.calls import bound
from diffprof.targets.construct import random_values
from diffprof.targets.pipeline import components, is_pipeline
from diffprof.targets.pipeline_call import Scene
from diffprof.tuning.twin.calling import SEED, small_call
from diffprof.tuning.twin.copy_customizations import dress
from diffprof.tuning.twin.shrinking import NoTwin, Scale, shrunk
from diffprof.tuning.twin.sizes import sizes_of

FACTORS = (16, 8, 4, 2)
"""Tried in this order: the first with which the twin can be built and called is taken. Of a transformer the
size of the heads is divided, or else their number: rotary embeddings take only certain sizes."""

SMALL_PARAMETERS = 50_000_000
"""A pipeline of up to so many, which may be too narrow to be divided, is its own twin with random weights."""


@dataclass(frozen=True)
class Twin:
    """scene: its call. factor: what every width was divided by."""

    scene: Scene
    factor: int

    @property
    def said(self) -> str:
        """What it is, in words."""
        widths = f"widths divided by {self.factor}" if self.factor > 1 else "the same widths"
        return f"a twin of {type(self.scene.pipe).__name__} with {widths} and random weights"


def twin_of(scene: Scene) -> Twin:
    """The twin of a pipeline whose weights have no values, with its processors, types, adapters and layout.

    Raises NoTwin where no factor gives a pipeline that can be built and called.
    """
    trouble = ""
    tries = [(factor, heads) for factor in FACTORS for heads in (False, True)]
    if _parameters(scene.pipe) <= SMALL_PARAMETERS:
        tries.append((1, False))
    sizes = sizes_of(scene.pipe, bound(scene.pipe, scene.args, scene.kwargs))
    for factor, heads in tries:
        try:
            found = Twin(_built(scene, Scale(factor, heads, sizes)), factor)
            found.scene.call()
        except Exception as error:
            text = str(error).strip().splitlines()
            trouble = f"{type(error).__name__}{': ' + text[0] if text else ''}"
            continue
        found.scene.rewind()
        return found
    raise NoTwin(f"{type(scene.pipe).__name__} can't be shrunk ({trouble})")


def _parameters(pipe: Any) -> int:
    parts = [part for part in components(pipe).values() if isinstance(part, torch.nn.Module)]
    return sum(p.numel() for part in parts for p in part.parameters())


def _built(scene: Scene, scale: Scale) -> Scene:
    pipe = scene.pipe
    with _quiet(), random_values(None):
        twins: dict[int, Any] = {}
        for part in pipe.components.values():
            if id(part) not in twins:
                twins[id(part)] = shrunk(part, scale)
        made = _remade(pipe, twins)
        for name, part in components(made).items():
            original = components(pipe).get(name)
            if isinstance(part, torch.nn.Module) and isinstance(original, torch.nn.Module):
                dress(part, original, scale.factor)
                if _empty(part) > _empty(original):
                    raise NoTwin(f"with widths divided by {scale.factor}, weights of its {name} are empty")
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {"disable": True}))
    kwargs = small_call(scene, made, scale.factor, scale.sizes)
    return Scene(made, (), kwargs, scene.target, "random", seed=SEED)


def _empty(part: torch.nn.Module) -> int:
    """Parameters without elements, through which nothing flows."""
    return sum(not parameter.numel() for parameter in part.parameters())


def _remade(pipe: Any, twins: Mapping[int, Any]) -> Any:
    """A pipeline of the same class with the twins of its components.

    One that is made of another pipeline, and takes no components itself, is a copy of what it holds.

    twins: by the component's id.
    """
    cls = type(pipe)
    accepted = inspect.signature(cls.__init__).parameters
    parts = {name: twins[id(part)] for name, part in pipe.components.items()}
    if not parts.keys() <= accepted.keys():
        made = object.__new__(cls)
        vars(made).update({name: _held(value, twins) for name, value in vars(pipe).items()})
        return made
    # The constructor's other arguments are kept in the configuration, or as attributes.
    settings = {**vars(pipe), **dict(getattr(pipe, "config", {}))}
    settings = {name: value for name, value in settings.items() if name in accepted and name not in parts}
    return cls(**parts, **settings)


def _held(value: Any, twins: Mapping[int, Any]) -> Any:
    """An attribute of a pipeline, with twins in the place of its components."""
    if id(value) in twins:
        return twins[id(value)]
    if is_pipeline(value):
        return _remade(value, twins)
    if isinstance(value, list | tuple):
        return type(value)(_held(each, twins) for each in value)
    if isinstance(value, dict):
        return {key: _held(each, twins) for key, each in value.items()}
    return value


@contextmanager
def _quiet() -> Iterator[None]:
    """Libraries remark on configuration entries; the twin is not what the user wrote."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
