"""A shrunken twin: the same pipeline classes with the same blocks, heads and features, every width divided by
one factor, seeded random weights. Where weights have no values, outputs are compared on it."""

from __future__ import annotations

import functools
import inspect
import logging
import math
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch

from diffprof.model.pipeline import Pipeline, components, is_pipeline
from diffprof.targets.calls import bound
from diffprof.targets.construct import random_values, weightless
from diffprof.targets.pipeline_call import PipelineCall
from diffprof.targets.twin.calling import SEED, small_call
from diffprof.targets.twin.copy_customizations import dress
from diffprof.targets.twin.few_blocks import runs_with_few_blocks
from diffprof.targets.twin.shrinking import TEXT_LAYERS, NoTwin, Scale, shrunk
from diffprof.targets.twin.sizes import Sizes, sizes_of

FACTORS = (16, 8, 4, 2)
"""Tried in this order: the first with which the twin can be built and called is taken. Of a transformer the
size of the heads is divided, or else their number: rotary embeddings take only certain sizes."""

SMALL_PARAMETERS = 50_000_000
"""A pipeline of up to so many, which may be too narrow to be divided, is its own twin with random weights."""

LARGEST_PARAMETERS = 600_000_000
"""A twin of more is none: it would take gigabytes and minutes."""


LEAST_AREA = 512 * 512
"""Pixels. A smaller number in the code of a call may count something else."""


class _TooLarge(NoTwin):
    """It could be built, and would not be small."""


@dataclass(frozen=True)
class Twin:
    """call: its own. factor: what every width was divided by. few_blocks: it has few of equal blocks."""

    call: PipelineCall
    factor: int
    few_blocks: bool = False

    @property
    def said(self) -> str:
        """What it is, in words."""
        widths = f"widths divided by {self.factor}" if self.factor > 1 else "the same widths"
        blocks = ", few of its equal blocks" if self.few_blocks else ""
        return f"a twin of {type(self.call.pipe).__name__} with {widths}{blocks} and random weights"


def twin_of(
    call: PipelineCall,
    *,
    cold: bool = False,
    few_blocks: bool = False,
    wanted: Callable[[Pipeline], bool] = lambda pipe: True,
) -> Twin:
    """The twin of a pipeline whose weights have no values, with its processors, types, adapters and layout.

    cold: as before a first call, which fills what models keep, and with all layers of its text encoders where
    it runs with them, which wait as often as the full size's. It is called once to see that it can be; else
    that call has filled it, and text encoders have few layers. few_blocks: of equal blocks in a row of a
    denoiser, two, where it runs with them. wanted: asked of each that can be built.
    Raises NoTwin where no factor gives a pipeline that is wanted and can be built and called.
    """
    trouble = ""
    tries: list[tuple[int, bool, int | None]] = [
        (factor, heads, layers)
        for factor in FACTORS
        for layers in ((None, TEXT_LAYERS) if cold else (TEXT_LAYERS, None))
        for heads in (False, True)
    ]
    if _parameters(call.pipe) <= SMALL_PARAMETERS:
        tries.append((1, False, TEXT_LAYERS))
    sizes = sizes_of(call.pipe, bound(call.pipe, call.args, call.kwargs))
    for factor, heads, layers in tries:
        try:
            scale = Scale(factor, heads, sizes, layers)
            found = Twin(_built(call, scale), factor)
            if not wanted(found.call.pipe):
                raise NoTwin("none of its widths is wanted")
            found.call.keeps_output = True
            if few_blocks and runs_with_few_blocks(found.call):
                found = replace(found, few_blocks=True)
            else:
                found.call.run()
        except _TooLarge as error:
            # What was wrong with a smaller one tells more.
            trouble = trouble or str(error)
            continue
        except Exception as error:
            text = str(error).strip().splitlines()
            named = "" if isinstance(error, NoTwin) else type(error).__name__
            trouble = ": ".join(filter(None, (named, *text[:1])))
            continue
        if cold:
            return Twin(_built(call, scale), factor)
        found.call.rewind()
        return found
    raise NoTwin(f"{type(call.pipe).__name__} can't be shrunk ({trouble})")


def _parameters(pipe: Pipeline) -> int:
    parts = [part for part in components(pipe).values() if isinstance(part, torch.nn.Module)]
    return sum(p.numel() for part in parts for p in part.parameters())


def _built(call: PipelineCall, scale: Scale) -> PipelineCall:
    pipe = call.pipe
    with _quiet(), weightless():
        _check_size(_twins(pipe, scale))
    with _quiet(), random_values(None):
        twins = _twins(pipe, scale)
        made = _remade(pipe, twins)
        for name, part in components(made).items():
            original = components(pipe).get(name)
            if isinstance(part, torch.nn.Module) and isinstance(original, torch.nn.Module):
                dress(part, original, scale.factor)
                if _empty(part) > _empty(original):
                    raise NoTwin(f"with widths divided by {scale.factor}, weights of its {name} are empty")
    made.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {"disable": True}))
    _make_small_pictures(made, scale.sizes)
    vars(made).update(scale.sizes.texts(vars(made)))
    kwargs = small_call(call, made, scale.factor, scale.sizes)
    return PipelineCall(made, (), kwargs, call.target, "random", seed=SEED)


def _make_small_pictures(made: Pipeline, sizes: Sizes) -> None:
    """Of a pipeline that brings whatever size is asked for, or a picture that it is given, to an area of its
    own: one that it holds, or that its call's code names."""
    small = _with_small_areas(type(made), sizes)
    if small is not type(made):
        made.__class__ = small
    side = getattr(made, "default_sample_size", None)
    if isinstance(side, int):
        made.default_sample_size = sizes.of_side(side)


def _with_small_areas(cls: type, sizes: Sizes) -> type:
    """The class itself, or where its call's code has the area of a large square picture (`1024 * 1024`), or
    the sides that it takes of one (`resolution in [640, 1024]`), one of the same name whose call has the
    twin's there."""
    call = inspect.unwrap(cls.__call__)
    code = getattr(call, "__code__", None)
    if code is None:
        return cls
    changed = tuple(_small_constant(each, sizes) for each in code.co_consts)
    if changed == code.co_consts:
        return cls
    small = code.replace(co_consts=changed)
    made = types.FunctionType(small, call.__globals__, call.__name__, call.__defaults__, call.__closure__)
    functools.update_wrapper(made, call)
    vars(made).pop("__wrapped__")
    own = {"__call__": torch.no_grad()(made), "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, (cls,), own)


def _small_constant(value: object, sizes: Sizes) -> object:
    """Of the code of a call: the twin's area for a picture's, the twin's sides for several sides."""
    if isinstance(value, int) and _is_area(value):
        return sizes.small_height * sizes.small_width
    if isinstance(value, tuple) and value and all(isinstance(n, int) and _is_area(n**2) for n in value):
        return tuple(map(sizes.of_side, value))
    return value


def _is_area(value: int) -> bool:
    """Whether it counts the pixels of a square picture, of 512 px or more by 64 px."""
    side = math.isqrt(value) if value >= LEAST_AREA else 0
    return side > 0 and side**2 == value and side % 64 == 0


def _twins(pipe: Pipeline, scale: Scale) -> dict[int, torch.nn.Module]:
    """Of each component, by its id."""
    return {id(part): _smaller(part, scale) for part in {id(p): p for p in pipe.components.values()}.values()}


def _smaller(part: object, scale: Scale) -> object:
    """An autoencoder shares no width with the other parts: one that can't be divided by as much as they, as
    where the groups of its norms are of a fixed number, is divided by less."""
    for factor in (each for each in FACTORS if each <= scale.factor and hasattr(part, "decode")):
        with suppress(Exception):
            return shrunk(part, replace(scale, factor=factor))
    return shrunk(part, scale)


def _check_size(twins: Mapping[int, object]) -> None:
    """Raises _TooLarge."""
    modules = [part for part in twins.values() if isinstance(part, torch.nn.Module)]
    count = sum(p.numel() for part in modules for p in part.parameters())
    if count > LARGEST_PARAMETERS:
        raise _TooLarge(f"it would still have {count / 1e9:.1f} billion parameters")


def _empty(part: torch.nn.Module) -> int:
    """Parameters without elements, through which nothing flows."""
    return sum(not parameter.numel() for parameter in part.parameters())


def _remade(pipe: Pipeline, twins: Mapping[int, object]) -> Any:
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


def _held(value: Any, twins: Mapping[int, object]) -> object:
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
